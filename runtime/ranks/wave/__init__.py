"""A wave of micro-batches on one rank: its trunk, its lanes, and the exchanges between them."""

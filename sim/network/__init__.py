"""How long messages take on a cluster's links: single exchanges, collectives, and flows that share
links fairly."""

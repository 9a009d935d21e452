"""Which device holds which subnets, and which owns which micro-batches. From outside:
`place_balanced` and `search_placement`; the other files are its prices and bounds."""

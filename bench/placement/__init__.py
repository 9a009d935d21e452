"""Placement as a mixed-integer program, to hold the fast search against. From outside:
`place_mip`."""

"""Devices, links and the paths between them, and the files that describe them. From outside:
`Cluster`, `Device`, `load_cluster`."""

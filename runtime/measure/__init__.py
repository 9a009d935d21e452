"""What steps really cost here: seconds, FLOPs and bytes of a device, of ranks, of links."""

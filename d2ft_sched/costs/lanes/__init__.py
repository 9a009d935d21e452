"""What sliced computations cost: what a schedule becomes, its seconds, bytes and wasted FLOPs."""

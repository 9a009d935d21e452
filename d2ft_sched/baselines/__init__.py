"""Rules of thumb and published methods that plans are compared with; our reading of each."""

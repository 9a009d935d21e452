"""Ways to run a model on a cluster: which devices form replicas, how many samples each takes."""

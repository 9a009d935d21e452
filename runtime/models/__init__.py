"""Models by name with their weights, adapters, classifiers and optimizers."""

"""Dense steps of a whole model, as one would run it without a plan."""

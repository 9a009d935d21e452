"""One module for each command with its function `run`, and the options that they share."""

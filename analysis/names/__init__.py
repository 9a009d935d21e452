"""Choices of the command line by name; light enough for `d2ft --help`."""

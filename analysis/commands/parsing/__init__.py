"""What the command line does beyond typer: axes of values, files that would overwrite each other,
empty values, errors on one line."""

"""Files that are never half-written, checked against a schema when they are read, and say where
they come from."""

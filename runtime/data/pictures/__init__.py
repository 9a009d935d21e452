"""Pictures: where they come from, how they are cropped and changed, and how they are read."""

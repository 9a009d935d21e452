"""Pictures and texts of folders, packages and downloads as tensors, split and cut into
mini-batches."""

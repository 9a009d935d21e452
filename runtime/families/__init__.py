"""Model families: one adapter file for each, the same interface, `family.ModelFamily`, for all."""

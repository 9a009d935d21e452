"""The cells of a schedule cut into rectangles that run together, at the least price."""

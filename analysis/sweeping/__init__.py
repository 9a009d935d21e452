"""Grids of plans, solved and simulated by many processes (`d2ft sweep`)."""

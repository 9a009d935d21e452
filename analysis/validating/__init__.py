"""Predictions held against measurements, alone or on ranks (`d2ft validate`)."""

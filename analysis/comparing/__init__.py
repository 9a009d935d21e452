"""Solvers side by side on one problem, or on problems that grow (`d2ft compare`)."""

"""Cases of ways to run a dense step, and the least one they are held against."""

"""What a simulated step tells: what bounds it, how busy devices are, what would change it, how it
varies."""

"""The training loop and what it asks for: events, schedules of steps, the model on one device or a
rank's part of it, re-planning."""

"""Who does what where: operations, schedules, placements, and what a lane group is."""

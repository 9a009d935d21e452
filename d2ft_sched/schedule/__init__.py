"""Who does what where: operations, schedules, placements, and the lane groups that a schedule
becomes."""

"""Pictures of plans and results: functions that take a table or a result and return a Figure."""

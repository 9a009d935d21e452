"""A plan from its parts: planned within capacities, written and read as ``plan.json``, made anew
while training. From outside: `make_plan`, `load_plan`, `save_plan`."""

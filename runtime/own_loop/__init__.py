"""A plan in a training loop of one's own: the model stays itself, its blocks run in lanes.

`apply_plan` is the way in; the callbacks hand its handle to the loops of transformers and
Lightning, and import these only when they are made.
"""

"""A training run from a plan: prepared, followed, written down and read back (`d2ft finetune`)."""

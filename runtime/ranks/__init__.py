"""Several processes of one job: what each holds, what it sends, and how it runs its part of a
step."""

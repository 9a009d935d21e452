"""Fine-tuning methods side by side: the same start, the same loop, another schedule."""

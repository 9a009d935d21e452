"""Pictures of trainings: accuracy, losses and seconds of their steps."""

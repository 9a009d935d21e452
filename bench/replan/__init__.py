"""Trainings on a testbed while a device loses speed: with re-planning, without, undisturbed."""

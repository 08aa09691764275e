"""What people run: `python -m experiments.run`."""

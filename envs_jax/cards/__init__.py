"""Worlds of cards and numbers, after the Gym-Cards tasks of RL4VLM."""

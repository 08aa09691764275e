"""Worlds of cards and numbers, after the gym-cards tasks of RL4VLM."""

from envs_jax.cards.number_line import NumberLine
from envs_jax.world import register

register("cards/number_line", NumberLine)

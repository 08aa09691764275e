"""Worlds of cards and numbers, after the gym-cards tasks of RL4VLM."""

from envs_jax.cards.blackjack import Blackjack
from envs_jax.cards.ez_points import EZPoints
from envs_jax.cards.number_line import NumberLine
from envs_jax.cards.points24 import Points24
from envs_jax.world import register

register("cards/blackjack", Blackjack)
register("cards/ez_points", EZPoints)
register("cards/number_line", NumberLine)
register("cards/points24", Points24)

"""What the agent sees: its camera, the rooms' textures, and which things are in the picture."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from envs_jax.miniworld.dynamics import Agent
from envs_jax.render.raycast import BOX, Hit
from envs_jax.render.scene import Camera

IMAGE_SHAPE = (60, 80, 3)
CAMERA_HEIGHT = 1.5  # metres
FIELD_OF_VIEW = math.radians(60.0)  # vertical
SKY = (0.25, 0.82, 1.0)


def camera(agent: Agent) -> Camera:
    """The camera at the agent's position, level."""
    return Camera(
        position=agent.position + jnp.array([0.0, CAMERA_HEIGHT, 0.0], jnp.float32),
        yaw=agent.yaw,
        pitch=jnp.float32(0.0),
        fov_y=jnp.float32(FIELD_OF_VIEW),
    )


def shares(hit: Hit, count: int) -> Float[Array, " n"]:
    """Share of the picture that each of `count` boxes covers, hidden parts left out: float32[count] in 0..1."""
    rows: Int[Array, " n"] = jnp.arange(count, dtype=jnp.int32)
    covered = (hit.kind == BOX)[..., None] & (hit.index[..., None] == rows)
    return jnp.mean(covered.astype(jnp.float32), axis=(0, 1))

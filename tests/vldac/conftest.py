"""A world and a model that are as small as they can be while everything in them is real."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from envs_jax import Step
from vldac.models import ImageConfig, Qwen2VLConfig, TextConfig, VisionConfig
from vldac.text.tokenizer import IMAGE, VISION_END, VISION_START, load_tokenizer, special_id, vocabulary


@struct.dataclass
class SignalState:
    key: jax.Array
    steps: jax.Array
    green: jax.Array


@dataclass(frozen=True)
class Signal:
    """A light is red or green; "stop" at red and "go" at green ends the episode with reward 1.

    A wrong or invalid answer costs nothing but the step, and changes the light at random.
    """

    name: str = "toy/signal"
    actions: tuple[str, ...] = ("stop", "go")
    instruction: str = "Mind the light."
    phrases: tuple[str, ...] = ("red", "green")
    image_shape: tuple[int, int, int] = (16, 16, 3)
    max_steps: int = 3

    def reset(self, key):
        key, draw = jax.random.split(key)
        return SignalState(key=key, steps=jnp.int32(0), green=jax.random.bernoulli(draw))

    def step(self, state, action):
        right = action == state.green.astype(jnp.int32)
        key, draw = jax.random.split(state.key)
        steps = state.steps + 1
        after = state.replace(key=key, steps=steps, green=jax.random.bernoulli(draw))
        reward = right.astype(jnp.float32)
        return after, Step(reward=reward, terminated=right, truncated=steps >= self.max_steps, success=right)

    def render(self, state):
        colour = jnp.where(state.green, jnp.array([0, 200, 0]), jnp.array([200, 0, 0])).astype(jnp.uint8)
        border = jnp.full((16, 16, 3), 90, jnp.uint8)
        return border.at[4:12, 4:12].set(colour)

    def describe(self, state):
        return state.green.astype(jnp.int32)[None]

    def admissible(self, state):
        return jnp.ones(2, bool)

    def expert(self, state, key):
        return state.green.astype(jnp.int32)

    def explain(self, state):
        return state.green.astype(jnp.int32)[None]


@pytest.fixture(scope="session")
def signal():
    return Signal()


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="session")
def tiny(tokenizer) -> Qwen2VLConfig:
    """A Qwen2-VL of some ten thousand parameters; a 16x16 frame becomes 2x2 visual tokens."""
    tokens = vocabulary(tokenizer)
    return Qwen2VLConfig(
        text=TextConfig(
            vocab_size=-(-tokens.size // 64) * 64,  # padding rows, as real checkpoints have them
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            rms_norm_eps=1e-6,
            rope_theta=10_000.0,
            mrope_section=(1, 1, 2),
            tie_word_embeddings=True,
            initializer_range=0.2,  # so that its answers are not all alike
        ),
        vision=VisionConfig(
            depth=1,
            embed_dim=16,
            num_heads=2,
            mlp_dim=32,
            patch_size=4,
            spatial_merge_size=2,
            temporal_patch_size=2,
            initializer_range=0.2,
        ),
        image=ImageConfig(min_pixels=16 * 16),
        image_token_id=special_id(tokenizer, IMAGE),
        vision_start_token_id=special_id(tokenizer, VISION_START),
        vision_end_token_id=special_id(tokenizer, VISION_END),
    )


@pytest.fixture(scope="session")
def observations():
    """observations(world, batch, history, seed) -> a batch of random observations, frames_seen 1..history."""
    from vldac.lanes import Observation

    def make(world, batch, history, seed=0):
        rng = np.random.default_rng(seed)
        seen = 1 + np.arange(batch) % history
        frames = rng.integers(0, 256, (batch, history, *world.image_shape)).astype(np.uint8)
        frames[np.arange(history) < (history - seen)[:, None]] = 0
        text = rng.integers(-1, len(world.phrases), (batch, 1)).astype(np.int32)
        return Observation(
            frames=jnp.asarray(frames), frames_seen=jnp.asarray(seen, jnp.int32), text=jnp.asarray(text)
        )

    return make

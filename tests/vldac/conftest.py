"""A world and a model that are as small as they can be while everything in them is real."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from envs_jax import Step
from vldac.models import Gemma3Config, ImageConfig, Qwen2VLConfig, TextConfig, VisionConfig
from vldac.models.config import LocalAttention
from vldac.models.siglip import SiglipConfig
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
    return tiny_qwen2_vl(tokenizer)


def tiny_qwen2_vl(tokenizer) -> Qwen2VLConfig:
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


IMAGE_TOKENS = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
# In the shape of Gemma 3's: it begins with <bos>, renames the assistant, and trims text.
GEMMA_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set first = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('user and assistant must take turns') }}
    {%- endif -%}
    {{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else turn['role']) + '\n' }}
    {{- first if loop.first else '' }}
    {%- for part in turn['content'] -%}
        {%- if part['type'] == 'image' -%}
            {{ '<start_of_image>' }}
        {%- elif part['type'] == 'text' -%}
            {{ part['text'] | trim }}
        {%- endif -%}
    {%- endfor -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""


@pytest.fixture(scope="session")
def gemma_tokenizer(tmp_path_factory):
    """gemma_tokenizer(special_images) -> a tokenizer in the shape of Gemma 3's.

    SentencePiece's pieces as BPE: spaces are U+2581, unknown characters bytes; runs of newlines and of spaces are
    added tokens but text; answers end with <end_of_turn>, not with <eos>. Its image tokens are special or not.
    """

    def make(special_images: bool):
        control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
        runs = [*("\n" * n for n in range(1, 5)), *("\u2581" * n for n in range(2, 5))]
        images = list(IMAGE_TOKENS)
        words = ("the", "light", "action", "thoughts", "red", "green", "stop", "go", "user", "model")
        merges = [(word[:n], word[n]) for word in words for n in range(1, len(word))]
        merges += [("\u2581", word) for word in words] + [("\u2581" * n, "\u2581") for n in range(1, 4)]
        merges = list(dict.fromkeys(merges))
        letters = [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581", *map(chr, range(33, 127))]
        pieces = dict.fromkeys([*control, *runs, *letters, *(a + b for a, b in merges), *images])
        vocab = {piece: number for number, piece in enumerate(pieces)}
        built = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        built.normalizer = normalizers.Replace(" ", "\u2581")
        built.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        built.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        special = [*control, *(images if special_images else [])]
        for piece in [*control, *runs, *images]:
            built.add_tokens([AddedToken(piece, special=piece in special, normalized=False)])
        folder = tmp_path_factory.mktemp("gemma")
        built.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "GemmaTokenizer", "chat_template": GEMMA_TEMPLATE}
        config |= {name: f"<{name[:3]}>" for name in ("pad_token", "eos_token", "bos_token", "unk_token")}
        if special_images:
            names = "boi_token", "eoi_token", "image_token"
            config["extra_special_tokens"] = dict(zip(names, images, strict=True))
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(folder)

    return functools.cache(make)


@pytest.fixture(scope="session")
def tiny_gemma(gemma_tokenizer) -> Gemma3Config:
    """A Gemma 3 of some ten thousand parameters; an image is 4 visual tokens, a window less than a prompt."""
    tokens = vocabulary(gemma_tokenizer(False))
    ids = {name: gemma_tokenizer(False).convert_tokens_to_ids(name) for name in IMAGE_TOKENS}
    return Gemma3Config(
        text=TextConfig(
            vocab_size=-(-tokens.size // 64) * 64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rms_norm_eps=1e-6,
            rope_theta=10_000.0,
            rope_factor=8.0,
            mrope_section=(8, 0, 0),
            tie_word_embeddings=True,
            initializer_range=0.2,
            qkv_bias=False,
            qk_norm=True,
            query_scale=0.2,
            activation="gelu_tanh",
            unit_offset_norms=True,
            sandwich_norms=True,
            embedding_scale=32**0.5,
            local=LocalAttention(window=6, rope_theta=100.0, layers=(True, False, True)),
            bidirectional_images=True,
        ),
        vision=SiglipConfig(
            image_size=16,
            patch_size=4,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=0.2,
        ),
        tokens_per_image=4,
        image_token_id=ids["<image_soft_token>"],
        boi_token_id=ids["<start_of_image>"],
        eoi_token_id=ids["<end_of_image>"],
    )

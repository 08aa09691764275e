"""Sizes of Qwen2-VL that are drawn afresh: small ones to be trained from scratch, and the published ones.

A published size is for measuring speed and memory where no checkpoint is at hand; it has learnt nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vldac.models.config import ImageConfig, TextConfig, VisionConfig
from vldac.models.qwen2_vl import Qwen2VLConfig


def nano(vocab_size: int, **special_ids: int | None) -> Qwen2VLConfig:
    """About a million parameters, to be trained from scratch on a CPU.

    A 60x80 frame is scaled to 64x80, which is 8x10 patches and 20 visual tokens.

    Args:
      vocab_size: tokens of the tokenizer; the embedding is padded up to a multiple of 64.
      special_ids: `image_token_id` and the like, as `Qwen2VLConfig` takes them.
    """
    text = TextConfig(
        vocab_size=padded(vocab_size),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-6,
        # Width turns with the slowest frequencies. At the usual base of 10,000 neighbouring columns of a picture
        # are 0.003 radians apart, and a model this small does not learn left from right.
        rope_theta=5.0,
        mrope_section=(4, 6, 6),
        tie_word_embeddings=True,
    )
    return _small(text, depth=2, embed_dim=64, num_heads=2, mlp_dim=256, **special_ids)


def mini(vocab_size: int, **special_ids: int | None) -> Qwen2VLConfig:
    """About 32 million parameters, to be trained from scratch on one GPU in minutes. Arguments as `nano`."""
    text = TextConfig(
        vocab_size=padded(vocab_size),
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        rms_norm_eps=1e-6,
        rope_theta=5.0,  # as in `nano`
        mrope_section=(8, 12, 12),
        tie_word_embeddings=True,
    )
    return _small(text, depth=6, embed_dim=256, num_heads=4, mlp_dim=1024, **special_ids)


def qwen2_vl_2b(vocab_size: int, **special_ids: int | None) -> Qwen2VLConfig:
    """The shapes of Qwen2-VL-2B: 2.2 billion parameters. Arguments as `nano`."""
    return _published(151_936, 1536, 8960, heads=12, kv_heads=2, tied=True, used=vocab_size, **special_ids)


def qwen2_vl_7b(vocab_size: int, **special_ids: int | None) -> Qwen2VLConfig:
    """The shapes of Qwen2-VL-7B, the published results' model: 8.3 billion parameters. Arguments as `nano`."""
    return _published(152_064, 3584, 18_944, heads=28, kv_heads=4, tied=False, used=vocab_size, **special_ids)


def padded(vocab_size: int) -> int:
    """Rows of an embedding: a multiple of 64."""
    return -(-vocab_size // 64) * 64


def _small(
    text: TextConfig, depth: int, embed_dim: int, num_heads: int, mlp_dim: int, **special_ids: Any
) -> Qwen2VLConfig:
    vision = VisionConfig(
        depth=depth,
        embed_dim=embed_dim,
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        patch_size=8,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    # A world's small frame is not blown up to the 56x56 pixels of the published default.
    return Qwen2VLConfig(text=text, vision=vision, image=ImageConfig(min_pixels=32 * 32), **special_ids)


def _published(
    rows: int, hidden: int, mlp: int, heads: int, kv_heads: int, tied: bool, used: int, **special_ids: Any
) -> Qwen2VLConfig:
    if used > rows:
        raise ValueError(f"the tokenizer has {used} tokens; accepted: at most {rows}, the model's rows")
    text = TextConfig(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=28,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        mrope_section=(16, 24, 24),
        tie_word_embeddings=tied,
    )
    vision = VisionConfig(
        depth=32,
        embed_dim=1280,
        num_heads=16,
        mlp_dim=5120,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    return Qwen2VLConfig(text=text, vision=vision, **special_ids)


SIZES: dict[str, Callable[..., Qwen2VLConfig]] = {
    "nano": nano,
    "mini": mini,
    "qwen2_vl_2b": qwen2_vl_2b,
    "qwen2_vl_7b": qwen2_vl_7b,
}

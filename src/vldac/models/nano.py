"""Configurations of the Qwen2-VL architecture that are small enough to be trained from scratch."""

from __future__ import annotations

from vldac.models.config import ImageConfig, TextConfig, VisionConfig
from vldac.models.qwen2_vl import Qwen2VLConfig


def nano(
    vocab_size: int,
    *,
    image_token_id: int,
    vision_start_token_id: int,
    vision_end_token_id: int,
    video_token_id: int | None = None,
) -> Qwen2VLConfig:
    """About a million parameters, to be trained from scratch on a CPU.

    A 60x80 frame is scaled to 64x80, which is 8x10 patches and 20 visual tokens.

    Args:
      vocab_size: tokens of the tokenizer; the embedding is padded up to a multiple of 64.
      image_token_id, vision_start_token_id, vision_end_token_id, video_token_id: the tokenizer's special ids.
    """
    text = TextConfig(
        vocab_size=-(-vocab_size // 64) * 64,
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
    vision = VisionConfig(
        depth=2,
        embed_dim=64,
        num_heads=2,
        mlp_dim=256,
        patch_size=8,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    return Qwen2VLConfig(
        text=text,
        vision=vision,
        image_token_id=image_token_id,
        vision_start_token_id=vision_start_token_id,
        vision_end_token_id=vision_end_token_id,
        video_token_id=video_token_id,
        image=ImageConfig(min_pixels=32 * 32),  # a world's small frame is not blown up to the default 56x56
    )

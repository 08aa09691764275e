"""Vision-language models as Flax NNX modules: defined here, split once at the edge, pure inside jit."""

from vldac.models.config import ImageConfig, Qwen2VLConfig, TextConfig, VisionConfig, nano
from vldac.models.kv_cache import KVCache
from vldac.models.qwen2_vl import Qwen2VL, image_grid
from vldac.models.rope import image_position_extent, image_position_offsets
from vldac.models.value_head import ValueHead

__all__ = [
    "ImageConfig",
    "KVCache",
    "Qwen2VL",
    "Qwen2VLConfig",
    "TextConfig",
    "ValueHead",
    "VisionConfig",
    "image_grid",
    "image_position_extent",
    "image_position_offsets",
    "nano",
]

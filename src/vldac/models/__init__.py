"""Vision-language models as Flax NNX modules: defined here, split once at the edge, pure inside jit."""

from vldac.models.config import ImageConfig, TextConfig, VisionConfig
from vldac.models.families import FAMILIES, VLMConfig, config_from_hf, create, model_class
from vldac.models.gemma3 import Gemma3, Gemma3Config
from vldac.models.inputs import ImageSpan, Inputs, TowerWork, Visual
from vldac.models.kv_cache import KVCache
from vldac.models.qwen2_5_vl import Qwen2_5VL, Qwen2_5VLConfig
from vldac.models.qwen2_vl import Qwen2VL, Qwen2VLConfig, image_grid
from vldac.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from vldac.models.rope import image_position_extent, image_position_offsets
from vldac.models.sizes import SIZES, nano
from vldac.models.value_head import ValueHead
from vldac.models.vlm import VLM

__all__ = [
    "FAMILIES",
    "SIZES",
    "VLM",
    "Gemma3",
    "Gemma3Config",
    "ImageConfig",
    "ImageSpan",
    "Inputs",
    "KVCache",
    "Qwen2VL",
    "Qwen2VLConfig",
    "Qwen2_5VL",
    "Qwen2_5VLConfig",
    "Qwen3VL",
    "Qwen3VLConfig",
    "TextConfig",
    "TowerWork",
    "VLMConfig",
    "ValueHead",
    "VisionConfig",
    "Visual",
    "config_from_hf",
    "create",
    "image_grid",
    "image_position_extent",
    "image_position_offsets",
    "model_class",
    "nano",
]

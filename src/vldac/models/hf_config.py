"""A model that is not from any checkpoint, as the `config.json` and `preprocessor_config.json` of one."""

from __future__ import annotations

from typing import Any

from vldac.models.families import VLMConfig
from vldac.models.qwen2_vl import Qwen2VLConfig


def hf_configs(config: VLMConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of the two files, as `transformers` and `config_from_hf` read them.

    Raises:
      ValueError: another family than Qwen2-VL, or sizes that Hugging Face's configuration can not say.
    """
    if type(config) is not Qwen2VLConfig:
        raise ValueError(
            f"config is a {type(config).__name__}; accepted: a Qwen2VLConfig (models of other families come from "
            "a checkpoint, whose own files are kept)"
        )
    text, vision, image = config.text, config.vision, config.image
    if vision.mlp_dim % vision.embed_dim:
        raise ValueError(f"mlp_dim is {vision.mlp_dim}; accepted: a multiple of embed_dim = {vision.embed_dim}")
    model = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "vision_end_token_id": config.vision_end_token_id,
        "tie_word_embeddings": text.tie_word_embeddings,
        "text_config": {
            "model_type": "qwen2_vl_text",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "hidden_act": "silu",
            "initializer_range": text.initializer_range,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope_theta,
                "mrope_section": list(text.mrope_section),
            },
            "use_sliding_window": False,
            "bos_token_id": None,  # the defaults are those of the published vocabulary
            "eos_token_id": None,
            "pad_token_id": None,
        },
        "vision_config": {
            "model_type": "qwen2_vl_vision",
            "depth": vision.depth,
            "embed_dim": vision.embed_dim,
            "hidden_size": text.hidden_size,
            "hidden_act": "quick_gelu",
            "mlp_ratio": vision.mlp_dim // vision.embed_dim,
            "num_heads": vision.num_heads,
            "in_channels": vision.in_channels,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "initializer_range": vision.initializer_range,
            "rope_parameters": {"rope_type": "axial", "rope_theta": vision.rope_theta},
        },
    }
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "size": {"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels},
        "min_pixels": image.min_pixels,
        "max_pixels": image.max_pixels,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
    }
    return model, preprocessor

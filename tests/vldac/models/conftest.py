"""A tiny Qwen2-VL in torch and the same weights here, tied and untied, for the parity tests.

Every parameter is random, norms and biases too, so that none can be left out unnoticed; matrices are scaled by
their fan-in, so that activations stay near 1 and an absolute bound means something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vldac.models import Qwen2VL, Qwen2VLConfig, hf

PREPROCESSOR = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 40 * 40},
}


def torch_config(tied: bool = True, **text) -> transformers.Qwen2VLConfig:
    """3 layers of 4 query and 2 key heads of 12; M-RoPE sections 1, 2, 3; a tower of 2 blocks of 32."""
    return transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": 96,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0, "mrope_section": [1, 2, 3]},
            **text,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 48,
            "num_heads": 2,
            "mlp_ratio": 3,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=90,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
        tie_word_embeddings=tied,
    )


@dataclass(frozen=True, repr=False)
class Pair:
    """The same model twice.

    Attributes:
      torch: `Qwen2VLForConditionalGeneration`, float32.
      processor: the image processor that belongs to it.
      config, graphdef, params: the same here, its parameters through `hf.from_hf`.
    """

    torch: Any
    processor: Any
    config: Qwen2VLConfig
    graphdef: Any
    params: nnx.State

    @property
    def model(self) -> Qwen2VL:
        return nnx.merge(self.graphdef, self.params)

    def layer(self, stacked: nnx.Module, number: int) -> nnx.Module:
        """One layer of a stack as a module of its own."""
        graphdef, params = nnx.split(stacked)
        return nnx.merge(graphdef, jax.tree.map(lambda x: x[number], params))


def make_pair(tied: bool) -> Pair:
    torch.manual_seed(0)
    theirs = transformers.Qwen2VLForConditionalGeneration(torch_config(tied)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif parameter.ndim == 1:
                parameter.normal_(1, 0.2)
            elif "embed_tokens" in name:
                parameter.normal_(0, 0.7)
            else:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    config = Qwen2VLConfig.from_hf(theirs.config, PREPROCESSOR)
    params = hf.from_hf(config, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Qwen2VL(config, rngs=nnx.Rngs(0))))
    return Pair(theirs, Qwen2VLImageProcessorPil(**PREPROCESSOR), config, graphdef, params)


@pytest.fixture(scope="session")
def tied() -> Pair:
    return make_pair(tied=True)


@pytest.fixture(scope="session")
def untied() -> Pair:
    return make_pair(tied=False)


@pytest.fixture(scope="session", params=["tied", "untied"])
def pair(request) -> Pair:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def make_torch_config():
    return torch_config


@pytest.fixture(scope="session")
def preprocessor() -> dict[str, Any]:
    return dict(PREPROCESSOR)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

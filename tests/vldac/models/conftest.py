"""Every family at tiny sizes in torch, and the same weights here, tied and untied, for the parity tests.

* A family is an entry of `TINY`: what transformers calls its classes, a configuration that has each of its
  peculiarities, an image processor. Tests that ask for `family` or `pair` run for all of them.
* Every parameter is random, norms and biases too, so that none can be left out unnoticed; matrices are scaled by
  their fan-in, so that activations stay near 1 and an absolute bound means something.
* A prompt is a list of parts: int[n], ids of text, or uint8[h, w, 3], an image.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vldac.models import VLM, Inputs, Visual, VLMConfig, config_from_hf, create, hf, model_class

PREPROCESSOR = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 40 * 40},
}
TEXT = 90  # ids below it are text
QWEN_IDS = {
    "image_token_id": 90,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}


def qwen2_vl(tied: bool = True, **text) -> transformers.Qwen2VLConfig:
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
        tie_word_embeddings=tied,
        **QWEN_IDS,
    )


def qwen2_5_vl(tied: bool = True, **text) -> transformers.Qwen2_5_VLConfig:
    """As `qwen2_vl`; windows of 2x2 visual tokens, so 3x2 and 5x5 leave some over; the middle block sees all."""
    return transformers.Qwen2_5_VLConfig(
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
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 52,
            "out_hidden_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 20,  # one and a quarter windows' pixels: rounded down to whole merge blocks
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=tied,
        **QWEN_IDS,
    )


def qwen3_vl(tied: bool = True, **text) -> transformers.Qwen3VLConfig:
    """Heads of 16, together wider than the residual stream; 5x5 learned positions; two deepstack levels."""
    return transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": 96,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            **text,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 52,
            "out_hidden_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 25,
            "deepstack_visual_indexes": [1, 2],
        },
        tie_word_embeddings=tied,
        **QWEN_IDS,
    )


def gemma3(tied: bool = True, **text) -> transformers.Gemma3Config:
    """Local, global, local layers; an image of 9 tokens does not fit the window of 7; scores not by D^-1/2."""
    return transformers.Gemma3Config(
        text_config={
            "vocab_size": 96,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "rms_norm_eps": 1e-5,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
            "pad_token_id": 95,  # torch lets its embedding learn nothing
            **text,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 4,
            "layer_norm_eps": 1e-5,
            "vision_use_head": False,
        },
        mm_tokens_per_image=9,
        image_token_index=90,
        boi_token_index=92,
        eoi_token_index=93,
        tie_word_embeddings=tied,
    )


@dataclass(frozen=True, eq=False)
class Tiny:
    """A family as transformers has it.

    Attributes:
      torch: the class of the whole model.
      config: (tied) -> its configuration.
      processor: its image processor's class.
      preprocessor: contents of a `preprocessor_config.json`.
      published: what files on the hub call tensors: ((in `state_dict()`, there), ...), prefixes.
      token_types: the argument that tells visual tokens (1) from text (0).
    """

    torch: type
    config: Callable[[bool], Any]
    published: tuple[tuple[str, str], ...]
    processor: type = Qwen2VLImageProcessorPil
    preprocessor: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(PREPROCESSOR))
    token_types: str = "mm_token_type_ids"


TINY = {
    "qwen2_vl": Tiny(
        transformers.Qwen2VLForConditionalGeneration,
        qwen2_vl,
        published=(("model.visual.", "visual."), ("model.language_model.", "model.")),
    ),
    "qwen2_5_vl": Tiny(
        transformers.Qwen2_5_VLForConditionalGeneration,
        qwen2_5_vl,
        published=(("model.visual.", "visual."), ("model.language_model.", "model.")),
    ),
    "qwen3_vl": Tiny(
        transformers.Qwen3VLForConditionalGeneration,
        qwen3_vl,
        published=(),
        preprocessor={**PREPROCESSOR, "image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.6]},
    ),
    "gemma3": Tiny(
        transformers.Gemma3ForConditionalGeneration,
        gemma3,
        published=(
            ("lm_head.", "language_model.lm_head."),
            ("model.language_model.", "language_model.model."),
            ("model.vision_tower.", "vision_tower.vision_model."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
        ),
        processor=Gemma3ImageProcessorPil,
        preprocessor={"size": {"height": 24, "width": 24}, "image_std": [0.5, 0.4, 0.6]},
        token_types="token_type_ids",
    ),
}


@dataclass(frozen=True, repr=False, eq=False)
class Pair:
    """The same model twice.

    Attributes:
      tiny: the family.
      torch: the whole model in torch, float32.
      config, graphdef, params: the same here, its parameters through `hf.from_hf`.
    """

    tiny: Tiny
    torch: Any
    config: VLMConfig
    graphdef: Any
    params: nnx.State

    @property
    def model(self) -> VLM:
        return nnx.merge(self.graphdef, self.params)

    @property
    def kind(self) -> type[VLM]:
        return model_class(self.config)

    @functools.cached_property
    def half(self) -> Any:
        """The graphdef of the model computing in bfloat16."""
        return nnx.graphdef(nnx.eval_shape(lambda: create(self.config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)))

    def replace(self, **changes) -> Pair:
        return dataclasses.replace(self, **changes)

    def layer(self, stacked: nnx.Module, number: int) -> nnx.Module:
        """One layer of a stack as a module of its own."""
        graphdef, params = nnx.split(stacked)
        return nnx.merge(graphdef, jax.tree.map(lambda x: x[number], params))

    def ids(self, parts) -> np.ndarray:
        """A prompt as token ids, int[n], a placeholder for every visual token."""
        ids = []
        for part in parts:
            if is_image(part):
                span = self.config.image_span(*part.shape[:2])
                ids += [*span.before, *[span.token_id] * span.tokens, *span.after]
            else:
                ids += part.tolist()
        return np.asarray(ids, np.int32)

    def torch_inputs(self, parts) -> dict[str, Any]:
        """Keyword arguments of the torch model: one prompt, packed."""
        ids = torch.tensor(self.ids(parts)[None], dtype=torch.long)
        visual = (ids == self.config.image_token_id).int()
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), self.tiny.token_types: visual}
        images = [part for part in parts if is_image(part)]
        if images:
            inputs |= self.tiny.processor(**self.tiny.preprocessor)(images, return_tensors="pt")
        return inputs

    def torch_logits(self, parts) -> np.ndarray:
        """float32[n, V]"""
        with torch.no_grad():
            return self.torch(**self.torch_inputs(parts)).logits[0].numpy()

    def positions(self, parts) -> np.ndarray:
        """Of a prompt's tokens, int[3, n]."""
        positions, at = [], 0
        for part in parts:
            span = self.config.image_span(*part.shape[:2]) if is_image(part) else None
            before, after = (len(part), 0) if span is None else (len(span.before), len(span.after))
            positions.append(np.broadcast_to(at + np.arange(before), (3, before)))
            at += before
            if span is not None:
                positions.append(at + span.offsets)
                at += span.extent
            positions.append(np.broadcast_to(at + np.arange(after), (3, after)))
            at += after
        return np.concatenate(positions, axis=1)

    def encode(self, image: np.ndarray, half: bool = False) -> Visual:
        """The visual tokens of one image."""
        return encode_images(self.half if half else self.graphdef, self.params, image[None])

    def inputs(self, parts) -> Inputs:
        """One prompt, packed, as a batch of NumPy arrays."""
        ids = self.ids(parts)
        embeddings = np.array(self.model.embed(jnp.asarray(ids)))
        visual = [self.encode(part) for part in parts if is_image(part)]
        numbers = np.full(len(ids), -1, np.int32)
        deepstack = None
        if visual:
            slots = np.flatnonzero(ids == self.config.image_token_id)
            numbers[slots] = np.repeat(np.arange(len(visual)), [x.features.shape[1] for x in visual])
            embeddings[slots] = np.concatenate([x.features[0] for x in visual])
            if visual[0].deepstack is not None:
                levels = np.concatenate([x.deepstack[:, 0] for x in visual], axis=1)
                deepstack = np.zeros((len(levels), *embeddings.shape), np.float32)
                deepstack[:, slots] = levels
                deepstack = deepstack[:, None]
        valid = np.ones((1, len(ids)), bool)
        return Inputs(embeddings[None], self.positions(parts)[None], valid, numbers[None], deepstack)


def is_image(part) -> bool:
    return part.ndim == 3


@functools.partial(jax.jit, static_argnums=0)
def encode_images(graphdef, params, images):
    return nnx.merge(graphdef, params).encode_images(images)


@functools.cache
def make_pair(name: str, tied: bool) -> Pair:
    tiny = TINY[name]
    torch.manual_seed(0)
    theirs = tiny.torch(tiny.config(tied)).eval()
    with torch.no_grad():
        for parameter_name, parameter in theirs.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif parameter.ndim == 1:  # a norm's weight: near what it is drawn as, 1 or 0
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embed" in parameter_name and parameter.ndim == 2:
                parameter.normal_(0, 0.7)
            else:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    config = config_from_hf(theirs.config, tiny.preprocessor)
    params = hf.from_hf(config, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: create(config, rngs=nnx.Rngs(0))))
    return Pair(tiny, theirs, config, graphdef, params)


@pytest.fixture(scope="session", params=[f"{name}-{how}" for name in TINY for how in ("tied", "untied")])
def pair(request) -> Pair:
    """Every family, tied and untied."""
    name, how = request.param.split("-")
    return make_pair(name, how == "tied")


@pytest.fixture(scope="session", params=list(TINY))
def family(request) -> Pair:
    """Every family."""
    return make_pair(request.param, tied=True)


@pytest.fixture(scope="session")
def tied() -> Pair:
    """Qwen2-VL, for what does not depend on the family."""
    return make_pair("qwen2_vl", tied=True)


@pytest.fixture(scope="session")
def untied() -> Pair:
    return make_pair("qwen2_vl", tied=False)


@pytest.fixture(scope="session")
def gemma() -> Pair:
    return make_pair("gemma3", tied=True)


@pytest.fixture(scope="session")
def tiny_pair():
    """(name of a family) -> its pair, for what is that family's own."""
    return functools.partial(make_pair, tied=True)


@pytest.fixture(scope="session")
def tiny_config():
    """(name of a family, tied) -> its configuration in transformers."""
    return lambda name, tied: TINY[name].config(tied)


@pytest.fixture(scope="session")
def make_torch_config():
    return qwen2_vl


@pytest.fixture(scope="session")
def preprocessor() -> dict[str, Any]:
    return dict(PREPROCESSOR)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

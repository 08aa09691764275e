"""What all families share of a checkpoint's configuration, as frozen dataclasses.

* Nothing about a size, an epsilon, a rotary base or a special id is written in the model code: it is read from
  `config.json` by the family's own file.
* What tells the decoders of the families apart is a field of `TextConfig`; there is one decoder.
* Hugging Face's own `AutoConfig` fills in what an older or flat `config.json` leaves out, so that defaults
  are the same on both sides; what this implementation does not do is refused, not ignored.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# OpenAI CLIP's statistics, which Qwen2-VL's image processor uses unless its own file says otherwise.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class LocalAttention:
    """Layers that see only the last few positions, with rotary frequencies of their own (Gemma 3).

    Attributes:
      window: positions that a token sees, its own included.
      rope_theta: base of these layers' rotary frequencies.
      layers: for every decoder layer, whether it is one of them.
    """

    window: int
    rope_theta: float
    layers: tuple[bool, ...]

    def __post_init__(self):
        positive(self, "window")


@dataclass(frozen=True)
class TextConfig:
    """The causal decoder.

    Attributes:
      vocab_size: rows of the embedding, padding rows included.
      hidden_size: width d of the residual stream.
      intermediate_size: width of the gated MLP.
      num_hidden_layers: decoder layers L.
      num_attention_heads: query heads N.
      num_key_value_heads: key and value heads K; a divisor of N.
      head_dim: D, even.
      rms_norm_eps: added to the mean square; checkpoints differ, so there is no default.
      rope_theta: base of the rotary frequencies.
      mrope_section: how many of the D/2 frequencies turn with the temporal, height and width position.
      tie_word_embeddings: the unembedding is the embedding's own matrix.
      initializer_range: standard deviation of freshly drawn weights.
      mrope_interleaved: temporal, height and width take turns among the frequencies instead of lying in
        three chunks (Qwen3-VL).
      rope_factor: positions are divided by it before they turn anything (Gemma 3).
      qkv_bias: biases on query, key and value.
      qk_norm: RMSNorm over every head's query and key (Qwen3, Gemma 3).
      query_scale: what scores are multiplied with; None = D^-1/2.
      activation: of the MLP's gate.
      unit_offset_norms: RMSNorms scale by 1 + weight, in float32 (Gemma).
      sandwich_norms: attention and MLP are normalised before and after (Gemma).
      embedding_scale: token embeddings are multiplied with it, rounded to the embedding's dtype (Gemma).
      local: the layers that see only a window; None = there are none.
      bidirectional_images: visual tokens see all of their own image (Gemma 3).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    tie_word_embeddings: bool
    initializer_range: float = 0.02
    mrope_interleaved: bool = False
    rope_factor: float = 1.0
    qkv_bias: bool = True
    qk_norm: bool = False
    query_scale: float | None = None
    activation: Literal["silu", "gelu_tanh"] = "silu"
    unit_offset_norms: bool = False
    sandwich_norms: bool = False
    embedding_scale: float = 1.0
    local: LocalAttention | None = None
    bidirectional_images: bool = False

    def __post_init__(self):
        positive(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        positive(self, "num_attention_heads", "num_key_value_heads", "head_dim")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads is {self.num_key_value_heads}; accepted: a divisor of "
                f"num_attention_heads, which is {self.num_attention_heads}"
            )
        sections = self.mrope_section
        if len(sections) != 3 or min(sections) < 0 or 2 * sum(sections) != self.head_dim:
            raise ValueError(
                f"mrope_section is {sections}; accepted: three numbers (temporal, height, width) "
                f"whose sum is head_dim / 2 = {self.head_dim / 2:g}"
            )
        if self.local is not None and len(self.local.layers) != self.num_hidden_layers:
            raise ValueError(
                f"local.layers names {len(self.local.layers)} layers; accepted: one entry for each of "
                f"{self.num_hidden_layers}"
            )


@dataclass(frozen=True)
class VisionConfig:
    """What the Qwen families' vision towers share.

    Attributes:
      depth: transformer blocks.
      embed_dim: width E of the tower; E / num_heads is a multiple of 4 (rotary halves for two axes).
      num_heads: attention heads.
      mlp_dim: width of the blocks' MLP.
      patch_size: pixels of a patch's side.
      spatial_merge_size: patches of a merge block's side; one block becomes one token of the decoder.
      temporal_patch_size: frames of a patch; a still image is repeated that often.
      in_channels: colours, 3.
      rope_theta: base of the two-axis rotary frequencies.
      initializer_range: standard deviation of freshly drawn weights.
    """

    depth: int
    embed_dim: int
    num_heads: int
    mlp_dim: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    in_channels: int = 3
    rope_theta: float = 10_000.0
    initializer_range: float = 0.02

    def __post_init__(self):
        positive(self, "depth", "embed_dim", "num_heads", "mlp_dim")
        positive(self, "patch_size", "spatial_merge_size", "temporal_patch_size")
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(
                f"embed_dim is {self.embed_dim}; accepted: a multiple of 4 x num_heads = {4 * self.num_heads}"
            )
        if self.in_channels != 3:
            raise ValueError(f"in_channels is {self.in_channels}; accepted: 3")

    @property
    def patch_dim(self) -> int:
        """Numbers in a flattened patch: 1176 for the published checkpoints."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_dim(self) -> int:
        """Width of a merge block's patches side by side."""
        return self.embed_dim * self.spatial_merge_size**2


@dataclass(frozen=True)
class ImageConfig:
    """What `preprocessor_config.json` says: how pixels become the vision tower's input.

    Attributes:
      min_pixels, max_pixels: an image is scaled so that its area lies between them.
      mean, std: per colour, of values in [0, 1].
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self):
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels, max_pixels are {self.min_pixels}, {self.max_pixels}; accepted: 0 < min <= max"
            )
        check_colours(self.mean, self.std)

    @classmethod
    def from_hf(cls, preprocessor: Mapping[str, Any], vision: VisionConfig) -> ImageConfig:
        """Reads the contents of a `preprocessor_config.json`, which must fit the vision tower.

        Raises:
          ValueError: a patch, merge or temporal size differs from the tower's, the resampling is not bicubic
            (3), or a step that is always done here is left out.
        """
        for name, ours in (
            ("patch_size", vision.patch_size),
            ("merge_size", vision.spatial_merge_size),
            ("temporal_patch_size", vision.temporal_patch_size),
            ("resample", 3),
            ("rescale_factor", 1 / 255),
            ("do_resize", True),
            ("do_rescale", True),
            ("do_normalize", True),
        ):
            accept(f"preprocessor {name}", preprocessor.get(name, ours), ours)
        size = preprocessor.get("size") or {}
        default = cls()
        least = preprocessor.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
        most = preprocessor.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
        return cls(
            min_pixels=least or default.min_pixels,
            max_pixels=most or default.max_pixels,
            **colours(preprocessor, default.mean, default.std),
        )


def text_fields(text: Any) -> dict[str, Any]:
    """The fields of `TextConfig` that all families' text configurations spell alike."""
    names = "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
    names += "num_key_value_heads", "rms_norm_eps", "initializer_range"
    return {name: getattr(text, name) for name in names}


def colours(
    preprocessor: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of the colours, from a `preprocessor_config.json` where it has them, else as given."""
    found = {}
    for name, ours in (("mean", mean), ("std", std)):
        value = preprocessor.get(f"image_{name}") or ours
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise ValueError(f"preprocessor image_{name} is {value}; accepted: three numbers")
        found[name] = tuple(value)
    return found


def positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; accepted: 1 or more")


def accept(name: str, value: Any, accepted: Any) -> None:
    if value != accepted:
        raise ValueError(f"{name} is {value!r}; accepted: {accepted!r}")


def check_colours(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raises ValueError unless images can be normalised with these."""
    for name, values, least in (("image_mean", mean, -math.inf), ("image_std", std, 0.0)):
        if not all(isinstance(value, int | float) and least < value < math.inf for value in values):
            accepted = "numbers above 0" if least == 0 else "numbers"
            raise ValueError(f"preprocessor {name} is {list(values)}; accepted: three {accepted}")


def hf_config(config: Any, model_type: str) -> Any:
    """A Hugging Face configuration object from one, or from the contents of a `config.json`.

    Args:
      config: what `transformers.AutoConfig` loads, or a mapping (flat as on the hub, or with a `text_config`
        as transformers 5 saves it).
      model_type: the one that is accepted.

    Raises:
      ValueError: another `model_type`.
    """
    if isinstance(config, Mapping):
        from transformers import AutoConfig  # here, because it takes seconds and `nano` does not need it

        fields = copy.deepcopy(dict(config))  # some versions write into the nested parts
        accept("model_type", fields.pop("model_type", model_type), model_type)
        config = AutoConfig.for_model(model_type, **fields)
    accept("model_type", config.model_type, model_type)
    return config

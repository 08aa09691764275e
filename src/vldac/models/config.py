"""What a Qwen2-VL checkpoint's `config.json` says, as frozen dataclasses.

* Nothing about a size, an epsilon, a rotary base or a special id is written in the model code: it is read here.
* Hugging Face's own `AutoConfig` fills in what an older or flat `config.json` leaves out, so that defaults
  are the same on both sides; what this implementation does not do is refused, not ignored.
* `nano` is a configuration of the same architecture, small enough to be trained on two CPU cores.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# OpenAI CLIP's statistics, which Qwen2-VL's image processor uses unless its own file says otherwise.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TextConfig:
    """The causal decoder.

    Attributes:
      vocab_size: rows of the embedding, padding rows included.
      hidden_size: width d of the residual stream.
      intermediate_size: width of the SwiGLU MLP.
      num_hidden_layers: decoder layers L.
      num_attention_heads: query heads N.
      num_key_value_heads: key and value heads K; a divisor of N.
      head_dim: D, even.
      rms_norm_eps: added to the mean square; checkpoints differ, so there is no default.
      rope_theta: base of the rotary frequencies.
      mrope_section: how many of the D/2 frequencies turn with the temporal, height and width position.
      tie_word_embeddings: the unembedding is the embedding's own matrix.
      initializer_range: standard deviation of freshly drawn weights.
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

    def __post_init__(self):
        _positive(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        _positive(self, "num_attention_heads", "num_key_value_heads", "head_dim")
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


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower.

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
        _positive(self, "depth", "embed_dim", "num_heads", "mlp_dim")
        _positive(self, "patch_size", "spatial_merge_size", "temporal_patch_size")
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
            _accept(f"preprocessor {name}", preprocessor.get(name, ours), ours)
        size = preprocessor.get("size") or {}
        default = cls()
        colours = {}
        for name, ours in (("image_mean", default.mean), ("image_std", default.std)):
            colours[name] = preprocessor.get(name) or ours
            if not isinstance(colours[name], list | tuple) or len(colours[name]) != 3:
                raise ValueError(f"preprocessor {name} is {colours[name]}; accepted: three numbers")
        least = preprocessor.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
        most = preprocessor.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
        return cls(
            min_pixels=least or default.min_pixels,
            max_pixels=most or default.max_pixels,
            mean=tuple(colours["image_mean"]),
            std=tuple(colours["image_std"]),
        )


@dataclass(frozen=True)
class Qwen2VLConfig:
    """A Qwen2-VL model of any size.

    Attributes:
      text, vision, image: the decoder, the vision tower, the preprocessing.
      image_token_id: stands where a visual token's features go.
      vision_start_token_id, vision_end_token_id: around the visual tokens of an image.
      video_token_id: never used here but, like the three above, never to be sampled; None = there is none.
    """

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    video_token_id: int | None = None
    image: ImageConfig = field(default_factory=ImageConfig)

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.text.hidden_size

    @classmethod
    def from_hf(cls, config: Any, preprocessor: Mapping[str, Any] | None = None) -> Qwen2VLConfig:
        """Reads a Hugging Face configuration.

        Args:
          config: what `transformers.AutoConfig` loads, or the contents of a `config.json` (flat as on the
            hub, or with a `text_config` as transformers 5 saves it).
          preprocessor: the contents of a `preprocessor_config.json`; None takes the image processor's defaults.

        Raises:
          ValueError: another architecture, or an option that this implementation does not have.
        """
        if isinstance(config, Mapping):
            from transformers import AutoConfig  # here, because it takes seconds and `nano` does not need it

            fields = copy.deepcopy(dict(config))  # some versions write into the nested parts
            _accept("model_type", fields.pop("model_type", "qwen2_vl"), "qwen2_vl")
            config = AutoConfig.for_model("qwen2_vl", **fields)
        _accept("model_type", config.model_type, "qwen2_vl")
        text, vision = config.text_config, config.vision_config
        rope = text.rope_parameters
        _accept("hidden_act", text.hidden_act, "silu")
        _accept("vision hidden_act", vision.hidden_act, "quick_gelu")
        _accept("rope_type", rope["rope_type"], "default")
        _accept("layer_types", set(text.layer_types), {"full_attention"})
        _accept("attention_dropout", text.attention_dropout, 0.0)
        _accept("vision rope_type", vision.rope_parameters["rope_type"], "axial")
        _accept("vision hidden_size", vision.hidden_size, text.hidden_size)
        # transformers' Qwen2-VL attention knows no other head width, whatever `head_dim` says
        head_dim = text.hidden_size // text.num_attention_heads
        _accept("head_dim", getattr(text, "head_dim", None) or head_dim, head_dim)
        _accept("hidden_size", text.hidden_size, head_dim * text.num_attention_heads)
        for name in ("patch_size", "temporal_patch_size"):
            if not isinstance(getattr(vision, name), int):
                raise ValueError(f"vision {name} is {getattr(vision, name)!r}; accepted: one whole number")
        text_config = TextConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            head_dim=head_dim,
            rms_norm_eps=text.rms_norm_eps,
            rope_theta=float(rope["rope_theta"]),
            mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
            tie_word_embeddings=bool(config.tie_word_embeddings),
            initializer_range=text.initializer_range,
        )
        vision_config = VisionConfig(
            depth=vision.depth,
            embed_dim=vision.embed_dim,
            num_heads=vision.num_heads,
            mlp_dim=int(vision.embed_dim * vision.mlp_ratio),
            patch_size=vision.patch_size,
            spatial_merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            in_channels=vision.in_channels,
            rope_theta=float(vision.rope_parameters["rope_theta"]),
            initializer_range=vision.initializer_range,
        )
        return cls(
            text=text_config,
            vision=vision_config,
            image_token_id=config.image_token_id,
            vision_start_token_id=config.vision_start_token_id,
            vision_end_token_id=config.vision_end_token_id,
            video_token_id=config.video_token_id,
            image=ImageConfig() if preprocessor is None else ImageConfig.from_hf(preprocessor, vision_config),
        )


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


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; accepted: 1 or more")


def _accept(name: str, value: Any, accepted: Any) -> None:
    if value != accepted:
        raise ValueError(f"{name} is {value!r}; accepted: {accepted!r}")

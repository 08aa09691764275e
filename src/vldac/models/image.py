"""Image preprocessing on the device: equal, bit for bit up to the last rescaling, to the Pillow image processor.

* The target size follows Qwen2-VL's `smart_resize`, or is one for all; sizes are static, so it is a host function.
* Pillow resizes with antialiased bicubic or bilinear weights in 22-bit fixed point, and rounds to uint8 between
  the two passes. Width comes first here, as in Pillow up to 12; Pillow 13 takes the order that it expects to be
  cheaper, which rounds and clips other values in between.
* A pass is a product with a constant matrix, kept as three 8-bit limbs: every partial sum then fits a float32
  (and every factor a bfloat16), so the integers come out exact on any accelerator and at any matmul precision.

References: transformers' `Qwen2VLImageProcessorPil`, `Gemma3ImageProcessorPil`; Pillow's
`src/libImaging/Resample.c`.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vldac.models.config import ImageConfig, VisionConfig

Kernel = Literal["bicubic", "bilinear"]
PRECISION_BITS = 32 - 8 - 2  # of Pillow's fixed-point weights: 8 bits of pixel, 2 of headroom, in an int32
LIMB_BITS = 8
MAX_SHRINK = 64  # a sum over 4 x that many pixels of 8-bit times 8-bit numbers is the last to fit 24 bits


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size that Qwen2-VL scales an image to.

    Both sides become multiples of `factor`, the area comes to lie in [min_pixels, max_pixels], the aspect ratio
    stays as near as that allows. Rounding is Python's (halves to even), as in the original.

    Raises:
      ValueError: one side is more than 200 times the other.
    """
    if max(height, width) > 200 * min(height, width):
        raise ValueError(f"image is {height}x{width}; accepted: an aspect ratio of at most 200")
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif tall * wide < min_pixels:
        enlarge = math.sqrt(min_pixels / (height * width))
        tall = math.ceil(height * enlarge / factor) * factor
        wide = math.ceil(width * enlarge / factor) * factor
    return tall, wide


def patch_grid(height: int, width: int, vision: VisionConfig, image: ImageConfig) -> tuple[int, int]:
    """Patches down and across of an image of that many pixels, after resizing."""
    factor = vision.patch_size * vision.spatial_merge_size
    tall, wide = smart_resize(height, width, factor, image.min_pixels, image.max_pixels)
    return tall // vision.patch_size, wide // vision.patch_size


def resize(
    images: UInt8[Array, "n h w c"], height: int, width: int, kernel: Kernel = "bicubic"
) -> UInt8[Array, "n tall wide c"]:
    """Antialiased: the same uint8 values as Pillow's `Image.resize`, width first, then height.

    Raises:
      ValueError: a side is shrunk more than 64 times, beyond which the sums would no longer be exact.
    """
    if images.shape[2] != width:
        images = _resample("nhwc,low->lnhoc", images, _weight_limbs(images.shape[2], width, kernel))
    if images.shape[1] != height:
        images = _resample("nhwc,loh->lnowc", images, _weight_limbs(images.shape[1], height, kernel))
    return images


def normalise(
    images: UInt8[Array, "n h w 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "n h w 3"]:
    """(value / 255 - mean) / std, float32, as the image processors write it."""
    return rescale(images, np.asarray(mean, np.float32), np.asarray(std, np.float32))


def rescale(values: UInt8[Array, "*b c"], mean: np.ndarray, std: np.ndarray) -> Float[Array, "*b c"]:
    """(value / 255 - mean) / std, float32; mean and std are of the last axis, float32."""
    return (values.astype(jnp.float32) * np.float32(1 / 255) - mean) / std


def patchify(pixels: Float[Array, "n h w c"], vision: VisionConfig) -> Float[Array, "n s f"]:
    """Cuts images into flattened patches, merge block by merge block.

    Args:
      pixels: sides are multiples of patch size x merge size.

    Returns:
      [n, patches, colour * time * row * column]; a still image is the same at all times of its patch.
    """
    n, height, width, colours = pixels.shape
    side, merge = vision.patch_size, vision.spatial_merge_size
    down, across = height // (side * merge), width // (side * merge)
    x = pixels.reshape(n, down, merge, side, across, merge, side, colours)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # [n, down, across, merge, merge, colour, row, column]
    x = jnp.broadcast_to(
        x[..., None, :, :], (*x.shape[:6], vision.temporal_patch_size, side, side)
    )  # [..., colour, time, row, column]
    return x.reshape(n, down * across * merge**2, vision.patch_dim)


def preprocess(
    images: UInt8[Array, "n h w 3"], vision: VisionConfig, image: ImageConfig
) -> tuple[Float[Array, "n s f"], tuple[int, int]]:
    """Images of one size -> normalised patches.

    Returns:
      (float32[n, patches, patch_dim], (grid_h, grid_w)): the rows of `pixel_values`, image by image.
    """
    grid = patch_grid(images.shape[1], images.shape[2], vision, image)
    resized = resize(images, grid[0] * vision.patch_size, grid[1] * vision.patch_size)
    return patchify(normalise(resized, image.mean, image.std), vision), grid


def preprocess_square(
    images: UInt8[Array, "n h w 3"], side: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "n side side 3"]:
    """Images of one size -> normalised squares, whatever their aspect ratio (Gemma 3): `pixel_values`."""
    return normalise(resize(images, side, side, "bilinear"), mean, std)


def _resample(product: str, images: Array, limbs: np.ndarray) -> Array:
    """One pass along one axis; the einsum `product` has the limb axis l in front."""
    limbs = jnp.einsum(product, images.astype(jnp.float32), limbs, preferred_element_type=jnp.float32).astype(
        jnp.int32
    )
    total = (limbs[2] << 2 * LIMB_BITS) + (limbs[1] << LIMB_BITS) + limbs[0]
    rounded = (total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS
    return jnp.clip(rounded, 0, 255).astype(jnp.uint8)


@functools.lru_cache(maxsize=64)
def _weight_limbs(size: int, new_size: int, kernel: Kernel) -> np.ndarray:
    """Pillow's fixed-point weights as w = l0 + 2^8 l1 + 2^16 l2, float32[3, new_size, size]; only l2 is signed."""
    if size > MAX_SHRINK * new_size:
        raise ValueError(f"resizing {size} pixels to {new_size}; accepted: at most {MAX_SHRINK} times fewer")
    fixed = resize_weights(size, new_size, kernel) * (1 << PRECISION_BITS)
    fixed = np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int64)
    low = (1 << LIMB_BITS) - 1
    limbs = fixed & low, (fixed >> LIMB_BITS) & low, fixed >> 2 * LIMB_BITS
    return np.stack(limbs).astype(np.float32)


def resize_weights(size: int, new_size: int, kernel: Kernel) -> np.ndarray:
    """Weight of every old pixel in every new one, float64[new_size, size]; rows sum to 1.

    Pillow's `precompute_coeffs` with its bicubic (a = -0.5) or bilinear kernel, widened by the scale when
    shrinking.
    """
    evaluate, support = (_cubic, 2.0) if kernel == "bicubic" else (_triangle, 1.0)
    scale = size / new_size
    stretch = max(scale, 1.0)
    weights = np.zeros((new_size, size))
    for new in range(new_size):
        center = (new + 0.5) * scale
        first = max(int(center - support * stretch + 0.5), 0)
        last = min(int(center + support * stretch + 0.5), size)
        row = evaluate(np.abs((np.arange(first, last) - center + 0.5) / stretch))
        weights[new, first:last] = row / row.sum()
    return weights


def _cubic(x: np.ndarray) -> np.ndarray:
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, 0.0)

"""Pictures into the slots that their visual tokens have in a conversation.

* Pictures are of any size, and a vision tower compiled for one size does not know another. So they are scaled and
  cut into patches on the host, padded to a length from a short list (`bucket`), and the tower is told where each
  patch lies: some twenty programs at most, for all sizes that there are, and exactly the same numbers but for
  rounding. Families that scale all pictures to one size (Gemma 3) need one.
* The host scales as Pillow up to 12 does, which is what models and the device's own code know: width first.
* A step of a video is a picture whose patches span its frames. Videos are scaled frame by frame, as images are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int
from PIL import Image

from vldac.generate.conversation import Look
from vldac.generate.lanes import Params, bucket
from vldac.models import VLMConfig, model_class
from vldac.models.image import patch_grid
from vldac.models.vision import Patches

TOWER_BYTES = 2**32  # of a vision tower's intermediates that are held at a time


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, or a step of a video, as a vision tower takes it.

    Attributes:
      arrays: fields of `Patches` without the first axis, padded; of a family with one size the "pixels" alone,
        uint8[side, side, 3].
      slots: int32[T], where its visual tokens go.
    """

    arrays: dict[str, np.ndarray]
    slots: np.ndarray


class Sight:
    """Encodes the pictures of conversations.

    Args:
      graphdef: of the model.
      config: the model's.
      dtype: of the features.
    """

    def __init__(self, graphdef: nnx.GraphDef, config: VLMConfig, dtype: DTypeLike):
        self._graphdef, self._config, self._dtype = graphdef, config, dtype
        self._one_size = config.one_size
        self._encode = jax.jit(self._encode_pictures)
        self._put = jax.jit(_put, donate_argnums=0)

    def prepare(self, looks: Sequence[Look]) -> list[Picture]:
        """What can be done on the host, in any thread."""
        pictures = []
        for look in looks:
            slots = look.slots.reshape(len(look.frames), -1)
            pictures += [self._picture(*pair) for pair in zip(look.frames, slots, strict=True)]
        return pictures

    def levels(self, params: Params, pictures: Sequence[Picture], slots: int) -> Float[Array, "k s d"]:
        """Visual tokens in their places among `slots` slots: features, then deepstack's levels."""
        alike: dict[tuple[int, ...], list[Picture]] = {}
        for picture in pictures:
            alike.setdefault(picture.arrays["pixels"].shape, []).append(picture)
        levels = None
        for shape, group in alike.items():
            most = self._at_once(shape)
            for first in range(0, len(group), most):
                part = group[first : first + most]
                # Counts are powers of 2, too: what is missing repeats the first, for nobody.
                filled = part + part[:1] * ((1 << (len(part) - 1).bit_length()) - len(part))
                arrays = {name: np.stack([picture.arrays[name] for picture in filled]) for name in part[0].arrays}
                seen = self._encode(params, arrays)  # [k, n, T, d]
                places = np.full(seen.shape[1:3], slots, np.int32)  # there is no such slot
                for row, picture in zip(places, part, strict=False):
                    row[: len(picture.slots)] = picture.slots
                if levels is None:
                    levels = jnp.zeros((len(seen), slots, seen.shape[-1]), self._dtype)
                levels = self._put(levels, seen, places)
        return levels

    def _picture(self, frames: np.ndarray, slots: np.ndarray) -> Picture:
        """Of uint8[t, H, W, 3], its scaled patches."""
        config, vision = self._config, self._config.vision
        if self._one_size:
            return Picture({"pixels": _resize(frames[0], vision.image_size, vision.image_size, "bilinear")}, slots)
        grid = patch_grid(*frames.shape[1:3], vision, config.image)
        side, merge, together = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        scaled = np.stack([_resize(frame, grid[0] * side, grid[1] * side, "bicubic") for frame in frames])
        if len(scaled) == 1:  # a still image is the same at all times of its patches
            scaled = np.repeat(scaled, together, axis=0)
        x = scaled.reshape(together, grid[0] // merge, merge, side, grid[1] // merge, merge, side, 3)
        x = x.transpose(1, 4, 2, 5, 7, 0, 3, 6)  # [down, across, merge, merge, colour, time, row, column]
        arrays = {"pixels": x.reshape(-1, vision.patch_dim)}
        arrays |= model_class(config).TOWER.places(vision, grid)
        count = grid[0] * grid[1]
        room = -(-bucket(count, most=1 << 40) // merge**2) * merge**2
        absent = {name: -1 if name == "window" else 0 for name in arrays}
        arrays = {
            name: np.pad(array, ((0, room - count),) + ((0, 0),) * (array.ndim - 1), constant_values=absent[name])
            for name, array in arrays.items()
        }
        return Picture(arrays, slots)

    def _at_once(self, shape: tuple[int, ...]) -> int:
        """How many pictures of that shape the tower takes at a time: a power of 2."""
        work = self._config.tower_work(64, 64)
        if not self._one_size:
            patches = shape[0]
            work = dataclasses.replace(work, patches=patches, scores=self._config.vision.num_heads * patches**2)
        most = max(TOWER_BYTES // work.image_bytes(jnp.dtype(self._dtype).itemsize), 1)
        return 1 << (int(most).bit_length() - 1)

    def _encode_pictures(self, params: Params, arrays: dict[str, Array]) -> Float[Array, "k n t d"]:
        model = nnx.merge(self._graphdef, *params)
        if self._one_size:
            visual = model.encode_images(arrays["pixels"])
        else:
            visual = model.encode_patches(Patches(**arrays))
        levels = visual.features[None]
        return levels if visual.deepstack is None else jnp.concatenate([levels, visual.deepstack])


def _resize(image: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """uint8[height, width, 3]: one axis after the other, so that every version of Pillow takes the same order."""
    resample = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[kernel]
    picture = Image.fromarray(image)
    for size in ((width, image.shape[0]), (width, height)):
        if picture.size != size:
            picture = picture.resize(size, resample)
    return np.asarray(picture)


def _put(
    levels: Float[Array, "k s d"], seen: Float[Array, "k n t d"], slots: Int[Array, "n t"]
) -> Float[Array, "k s d"]:
    return levels.at[:, slots].set(seen.astype(levels.dtype), mode="drop")

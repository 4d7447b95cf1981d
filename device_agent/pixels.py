"""From a PNG or JPEG file to a vision transformer's first hidden states (Dosovitskiy et al. 2021).

Pure functions, which the profiler on the host uses as well: it must see what the device sees.
"""

import io
import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from shard_store.errors import RequestError
from shard_store.image_input import ImageInput, Resampling

MAX_PIXELS = 64 << 20

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_FILTERS = {
    Resampling.NEAREST: Image.Resampling.NEAREST,
    Resampling.BOX: Image.Resampling.BOX,
    Resampling.BILINEAR: Image.Resampling.BILINEAR,
    Resampling.HAMMING: Image.Resampling.HAMMING,
    Resampling.BICUBIC: Image.Resampling.BICUBIC,
    Resampling.LANCZOS: Image.Resampling.LANCZOS,
}


def read_image(data: bytes, image: ImageInput, name: str) -> Bytes:
    """An image file in the model's size: (height, width, channels). Raises RequestError, with the name."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise RequestError(f"{name} has {width} x {height} pixels, at most {MAX_PIXELS} are allowed; shrink it")
            if not image.resize and (width, height) != (image.width, image.height):
                raise RequestError(f"{name} has {width} x {height} pixels, must have {image.width} x {image.height}")
            converted = opened.convert("RGB" if image.channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(f"{name} is not a PNG or JPEG that can be read; convert it") from error
    if converted.size != (image.width, image.height):
        converted = converted.resize((image.width, image.height), _FILTERS[image.resampling])
    return np.asarray(converted, np.uint8).reshape(image.height, image.width, image.channels)


def pixels_of(values: Bytes, image: ImageInput) -> Floats:
    """Pixels (channels, height, width) of an image (height, width, channels), as ViTImageProcessor prepares them."""
    scaled = values.astype(np.float32) * np.float32(image.scale)
    pixels = (scaled - np.asarray(image.mean, np.float32)) / np.asarray(image.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def patches_of(pixels: Floats, image: ImageInput) -> Floats:
    """Pixels (channels, height, width), cut row by row into patches (patches, features)."""
    size = image.patch
    grid = pixels.reshape(image.channels, image.height // size, size, image.width // size, size)
    return np.ascontiguousarray(grid.transpose(1, 3, 0, 2, 4)).reshape(image.patches, -1)


def embed_patches(patches: Floats, tensors: Mapping[str, Floats], positions: Floats) -> Floats:
    """Patches (patches, features) as hidden states, behind the class token's: (patches + 1, hidden).

    positions: the position table (patches + 1, hidden).
    """
    embedded = patches @ tensors["patch.weight"].T + tensors["patch.bias"]
    return np.asarray(np.concatenate((tensors["cls_token"][None], embedded)) + positions, np.float32)

"""From a PNG or JPEG file to the first hidden states: pixels, patches, then one matrix (Dosovitskiy et al. 2021)."""

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from device_agent.executor import Activations
from device_agent.prompt import PromptEncoder
from device_agent.text import Encoder, Input, TextEncoder, Tokens
from shard_store.errors import RequestError
from shard_store.image_input import ImageInput, Resampling
from shard_store.reader import Store

MAX_PIXELS = 64 << 20

_FILTERS = {
    Resampling.NEAREST: Image.Resampling.NEAREST,
    Resampling.BOX: Image.Resampling.BOX,
    Resampling.BILINEAR: Image.Resampling.BILINEAR,
    Resampling.HAMMING: Image.Resampling.HAMMING,
    Resampling.BICUBIC: Image.Resampling.BICUBIC,
    Resampling.LANCZOS: Image.Resampling.LANCZOS,
}


class ImageEncoder:
    """Reads images, and embeds them into a batch's activations."""

    def __init__(self, store: Store, tensors: Mapping[str, npt.NDArray[np.float32]], image: ImageInput) -> None:
        self._store = store
        self._tensors = tensors
        self._image = image

    def tokenize(self, inputs: Sequence[Input], truncate: bool = False) -> list[Tokens]:  # noqa: ARG002
        """Decode and preprocess. Raises RequestError for what is no image, too large, or not of the model's size."""
        images = [image for image in inputs if isinstance(image, bytes)]
        if len(images) < len(inputs):
            raise RequestError(
                f"model {self._store.manifest.description.model} reads images, not texts; send PNG or JPEG files"
            )
        return [self._tokens(read_pixels(data, self._image, f"image {index}")) for index, data in enumerate(images)]

    def _tokens(self, pixels: npt.NDArray[np.float32]) -> Tokens:
        image, size = self._image, self._image.patch
        grid = pixels.reshape(image.channels, image.height // size, size, image.width // size, size)
        patches = np.ascontiguousarray(grid.transpose(1, 3, 0, 2, 4)).reshape(image.patches, -1)
        names = ("[CLS]", *(f"patch {number}" for number in range(image.patches)))
        ids = np.arange(len(names))
        return Tokens(ids, np.zeros_like(ids), names, (None,) * len(names), patches)

    @property
    def sample(self) -> Input:
        """A black picture."""
        file = io.BytesIO()
        Image.new("RGB", (self._image.width, self._image.height)).save(file, "PNG")
        return file.getvalue()

    def bucket(self, tokens: Tokens) -> int:
        """The sequence length of the templates: there is only one."""
        return len(tokens)

    def embed(self, tokens: Tokens, activations: Activations) -> None:
        """Write the embedding layer's output; nothing is padding."""
        assert tokens.patches is not None
        tensors, hidden = self._tensors, activations.hidden  # (tokens, hidden)
        hidden[0] = tensors["cls_token"]
        hidden[1:] = tokens.patches @ tensors["patch.weight"].T + tensors["patch.bias"]
        hidden += self._store.rows("position", np.arange(len(hidden)))
        activations.mask.array[:] = 0.0


def read_pixels(data: bytes, image: ImageInput, name: str) -> npt.NDArray[np.float32]:
    """An image file as pixels (channels, height, width), as transformers' ViTImageProcessor prepares them.

    Raises RequestError, with the name.
    """
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
    bytes_ = np.asarray(converted, np.uint8).reshape(image.height, image.width, image.channels)
    scaled = bytes_.astype(np.float32) * np.float32(image.scale)
    pixels = (scaled - np.asarray(image.mean, np.float32)) / np.asarray(image.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def open_encoder(store: Store, tensors: Mapping[str, npt.NDArray[np.float32]]) -> Encoder:
    """What reads a model's inputs: images, prompts, or texts to be answered."""
    image = store.manifest.description.image
    if store.manifest.description.generation is not None:
        return PromptEncoder(store)
    return TextEncoder(store, tensors) if image is None else ImageEncoder(store, tensors, image)

"""PNG and JPEG files as the inputs of an engine."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from device_agent.executor import Activations
from device_agent.pixels import embed_patches, patches_of, pixels_of, read_image
from device_agent.prompt import PromptEncoder
from device_agent.text import Encoder, Input, TextEncoder, Tokens
from shard_store.errors import RequestError
from shard_store.image_input import ImageInput
from shard_store.reader import Store


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
        return [self._tokens(data, f"image {index}") for index, data in enumerate(images)]

    def _tokens(self, data: bytes, name: str) -> Tokens:
        patches = patches_of(pixels_of(read_image(data, self._image, name), self._image), self._image)
        names = ("[CLS]", *(f"patch {number}" for number in range(self._image.patches)))
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
        positions = self._store.rows("position", np.arange(len(tokens)))
        activations.hidden[:] = embed_patches(tokens.patches, self._tensors, positions)
        activations.mask.array[:] = 0.0


def open_encoder(store: Store, tensors: Mapping[str, npt.NDArray[np.float32]]) -> Encoder:
    """What reads a model's inputs: images, prompts, or texts to be answered."""
    image = store.manifest.description.image
    if store.manifest.description.generation is not None:
        return PromptEncoder(store)
    return TextEncoder(store, tensors) if image is None else ImageEncoder(store, tensors, image)

"""How an image becomes patches, for models that read images (docs/format.md, "image")."""

import math
from dataclasses import dataclass
from enum import Enum

from shard_store.errors import FormatError
from shard_store.json_fields import JsonFields

MAX_IMAGE_SIDE = 4096


class Resampling(str, Enum):
    """How an image is resized."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image of height x width is cut into patches of patch x patch pixels (Dosovitskiy et al. 2021).

    A pixel is (byte * scale - mean) / std, per channel. resize: whether other sizes are resized or refused.
    """

    height: int
    width: int
    patch: int
    channels: int
    resize: bool
    resampling: Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            side = getattr(self, name)
            if not 1 <= side <= MAX_IMAGE_SIDE or not 1 <= self.patch <= side or side % self.patch:
                raise FormatError(f"image: {name} {side} must be 1 to {MAX_IMAGE_SIDE} and a multiple of {self.patch}")
        if self.channels not in (1, 3):
            raise FormatError(f"image: {self.channels} channels, must be 1 or 3")
        if not len(self.mean) == len(self.std) == self.channels:
            raise FormatError(f"image: mean and std must have {self.channels} values each")
        numbers = (self.scale, *self.mean, *self.std)
        if not all(map(math.isfinite, numbers)) or self.scale <= 0 or min(self.std) <= 0:
            raise FormatError("image: scale and std must be positive, and all numbers finite")

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def patch_features(self) -> int:
        """Values of one patch."""
        return self.channels * self.patch**2


def parse_image(fields: JsonFields) -> ImageInput:
    """The image input from its JSON object."""
    return ImageInput(
        height=fields.integer("height", 1, MAX_IMAGE_SIDE),
        width=fields.integer("width", 1, MAX_IMAGE_SIDE),
        patch=fields.integer("patch", 1, MAX_IMAGE_SIDE),
        channels=fields.integer("channels", 1, 3),
        resize=fields.boolean("resize"),
        resampling=fields.choice("resampling", Resampling),
        scale=fields.number("scale"),
        mean=fields.numbers("mean", 3),
        std=fields.numbers("std", 3),
    )


def image_document(image: ImageInput) -> dict[str, object]:
    """The JSON object of an image input."""
    return {
        "height": image.height, "width": image.width, "patch": image.patch, "channels": image.channels,
        "resize": image.resize, "resampling": image.resampling.value, "scale": image.scale,
        "mean": list(image.mean), "std": list(image.std),
    }  # fmt: skip

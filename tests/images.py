"""MNIST digits and their PNG files for tests."""

import gzip
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def digit(shared: Path, index: int) -> Pixels:
    """An image of MNIST's test file (28, 28)."""
    with gzip.open(shared / "data" / "mnist" / "mnist-t10k-images-idx3-ubyte.gz") as file:
        file.read(16 + index * 784)
        return np.frombuffer(file.read(784), np.uint8).reshape(28, 28)


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    """The file of an image (height, width) or (height, width, 3)."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()

"""Images: decoded, resized, normalised and cut into patches."""

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from device_agent.pixels import embed_patches, patches_of, pixels_of, read_image
from shard_store.errors import FormatError, RequestError
from shard_store.image_input import ImageInput, Resampling
from tests.images import encoded

INPUT = ImageInput(28, 28, 7, 3, True, Resampling.BILINEAR, 1 / 255, (0.5, 0.4, 0.3), (0.5, 0.25, 1.0))
GREY = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
COLOURED = np.random.default_rng(1).integers(0, 256, (28, 28, 3), np.uint8)


def read_pixels(data: bytes, image: ImageInput, name: str) -> npt.NDArray[np.float32]:
    return pixels_of(read_image(data, image, name), image)


def test_pixels_are_scaled_and_normalised_per_channel() -> None:
    found = read_pixels(encoded(COLOURED), INPUT, "image")
    expected = (COLOURED / 255 - np.asarray(INPUT.mean)) / np.asarray(INPUT.std)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-6)


def test_grey_becomes_three_equal_planes_and_colour_one() -> None:
    found = read_pixels(encoded(GREY), replace(INPUT, mean=(0.0,) * 3, std=(1.0,) * 3), "image")
    np.testing.assert_array_equal(found[0], found[2])
    one = replace(INPUT, channels=1, mean=(0.0,), std=(1.0,))
    assert read_pixels(encoded(COLOURED), one, "image").shape == (1, 28, 28)


def test_other_sizes_are_resized_or_refused() -> None:
    large = encoded(np.repeat(np.repeat(GREY, 2, axis=0), 2, axis=1))
    nearest = replace(INPUT, resampling=Resampling.NEAREST)
    np.testing.assert_array_equal(read_pixels(large, nearest, "image"), read_pixels(encoded(GREY), nearest, "image"))
    with pytest.raises(RequestError, match="image 3 has 56 x 56 pixels, must have 28 x 28"):
        read_pixels(large, replace(INPUT, resize=False), "image 3")


def test_patches_lie_row_by_row_behind_the_class_token() -> None:
    one = replace(INPUT, channels=1, mean=(0.0,), std=(1.0,), scale=1.0)
    patches = patches_of(read_pixels(encoded(GREY), one, "image"), one)
    np.testing.assert_array_equal(patches[5], GREY[7:14, 7:14].reshape(-1))
    tensors = {"patch.weight": np.eye(49, dtype=np.float32), "patch.bias": np.ones(49, np.float32)}
    tensors["cls_token"] = np.full(49, 3, np.float32)
    hidden = embed_patches(patches, tensors, np.arange(17, dtype=np.float32)[:, None])
    np.testing.assert_array_equal(hidden[0], 3)
    np.testing.assert_array_equal(hidden[6], patches[5] + 7)


def test_jpeg_is_read() -> None:
    assert read_pixels(encoded(COLOURED, "JPEG"), INPUT, "image").shape == (3, 28, 28)


def bomb() -> bytes:
    data = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", encoded(GREY)[:60], encoded(GREY, "BMP"), encoded(COLOURED, "JPEG")[:200]]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match=r"^image 7 is not a PNG or JPEG that can be read; convert it$"):
        read_pixels(data, INPUT, "image 7")


def test_an_image_of_too_many_pixels_is_refused_unread() -> None:
    with pytest.raises(RequestError, match="image 0"):
        read_pixels(bomb(), INPUT, "image 0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 27}, "height 27 must be"),
        ({"patch": 0}, "multiple of 0"),
        ({"channels": 2}, "2 channels"),
        ({"mean": (0.5,)}, "3 values each"),
        ({"std": (1.0, 0.0, 1.0)}, "must be positive"),
        ({"scale": float("nan")}, "finite"),
    ],
)
def test_impossible_inputs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        replace(INPUT, **changes)  # type: ignore[arg-type]

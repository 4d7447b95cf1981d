"""Images to profile on: read as the device reads them, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from device_agent.pixels import read_image
from host.profile.batch import ImageBatch
from host.profile.image_sample import read_image_sample
from host.profile.profiler import read_sample
from shard_store.errors import DataError
from shard_store.reader import Store
from tests.packaging import package_quietly
from tests.vision import PATCHES, write_images, write_vision_transformer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    return package_quietly(
        write_vision_transformer(folder / "model"), folder / "store", sequences=(16,), bitwidths=(8,)
    )


def test_images_are_those_that_the_device_would_see(store: Path, tmp_path: Path) -> None:
    data = write_images(tmp_path, 40)
    absolute = tmp_path / "elsewhere" / "absolute.tsv"
    absolute.parent.mkdir()
    absolute.write_text("".join(f"{tmp_path}/{line}\n" for line in data.read_text().splitlines()))
    with Store.open(store) as opened:
        sample, same = read_sample(opened, data, None), read_sample(opened, absolute, None)
        few = read_sample(opened, data, 9)
        image = opened.manifest.description.image
    assert image is not None
    first, last = sample.batches
    assert isinstance(first, ImageBatch)
    assert isinstance(last, ImageBatch)
    assert (len(first.pixels), len(last.pixels), sample.inputs, few.inputs) == (32, 8, 40, 9)
    assert first.real.shape == (32, PATCHES + 1)
    assert (sample.sha256 == same.sha256) and (sample.sha256 != few.sha256)
    expected = read_image((tmp_path / "images" / "1.png").read_bytes(), image, "image")
    np.testing.assert_array_equal(first.pixels[1], expected)
    labels = [int(line.split("\t")[1]) for line in data.read_text().splitlines()]
    assert sample.labels.tolist() == labels


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/none.png\t0", "none.png: cannot be read .*; paths start at the folder of the data"),
        ("images.tsv\t0", "images.tsv is not a PNG or JPEG that can be read; convert it"),
        ("images/0.jpeg\t3", "label 3, the model has 3 classes from 0 on"),
        ("images/0.jpeg\tcat", "line 9: the label is 'cat'"),
    ],
)
def test_what_cannot_be_used_is_refused(store: Path, tmp_path: Path, line: str, message: str) -> None:
    data = write_images(tmp_path, 8)
    data.write_text(f"{data.read_text()}{line}\n")
    with Store.open(store) as opened, pytest.raises(DataError, match=message):
        read_sample(opened, data, None)


def test_pairs_and_too_few_are_refused(store: Path, tmp_path: Path) -> None:
    data = write_images(tmp_path, 8)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"one\t{line}\n" for line in data.read_text().splitlines()))
    with Store.open(store) as opened:
        image = opened.manifest.description.image
        assert image is not None
        with pytest.raises(DataError, match="three columns, this model reads images"):
            read_image_sample(opened, pairs, image, None)
        with pytest.raises(DataError, match="7 images, give at least 8"):
            read_image_sample(opened, data, image, 7)

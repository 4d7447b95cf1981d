"""Labelled images to profile a vision transformer on."""

import hashlib
import json
from pathlib import Path

import numpy as np

from device_agent.pixels import read_image
from host.labelled_texts import read_labelled
from host.profile.batch import BATCH_INPUTS, ImageBatch
from host.profile.sample import Sample, check_examples
from shard_store.errors import DataError, RequestError
from shard_store.image_input import ImageInput
from shard_store.reader import Store


def read_image_sample(store: Store, data: Path, image: ImageInput, limit: int | None) -> Sample:
    """Read at most `limit` lines of path, tab, label; relative paths start at the folder of the file.

    Images are decoded and resized as on the device. Raises DataError for a file that is malformed, too short, or whose
    labels are not classes of the model, and for an image that cannot be read.
    """
    examples = read_labelled(data, limit)
    check_examples(examples, store.manifest.description.head, data, "images")
    paths = [data.parent / text for text in examples.texts if isinstance(text, str)]
    if len(paths) < len(examples.texts):
        raise DataError(f"{data}: three columns, this model reads images; give lines of path, tab and label")
    files = [_bytes(path) for path in paths]
    try:
        pixels = np.stack([read_image(file, image, str(path)) for file, path in zip(files, paths, strict=True)])
    except RequestError as error:
        raise DataError(f"{data}: {error}") from error
    real = np.ones((len(pixels), image.patches + 1), np.bool_)
    starts = range(0, len(pixels), BATCH_INPUTS)
    batches = (ImageBatch(pixels[start : start + BATCH_INPUTS], real[start : start + BATCH_INPUTS]) for start in starts)
    content = [[hashlib.sha256(file).hexdigest() for file in files], examples.labels]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Sample(tuple(batches), np.array(examples.labels, np.int64), digest)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); paths start at the folder of the data") from error

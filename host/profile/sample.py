"""What a profile is measured on: read as the device reads it, and put into batches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from host.labelled_texts import LabelledTexts
from host.profile.batch import Batch
from host.profile.quality import metric_name
from shard_store.errors import DataError
from shard_store.head import Head

MIN_INPUTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Texts by ascending length or images as they come, in batches."""

    batches: tuple[Batch, ...]
    labels: npt.NDArray[np.int64]  # (inputs,) in the order of the batches
    sha256: str  # of inputs and labels, in the order of the file

    @property
    def inputs(self) -> int:
        """How many."""
        return self.labels.size


def check_examples(examples: LabelledTexts, head: Head, data: Path, name: str = "texts") -> None:
    """Raise DataError for too few of them, or for labels that are not classes of the model."""
    check_count(len(examples.texts), data, name)
    classes = len(head.labels)
    if metric_name(head) == "accuracy" and max(examples.labels) >= max(classes, 2):
        raise DataError(
            f"{data}: label {max(examples.labels)}, the model has {classes} classes from 0 on; "
            "give the data that it was trained for"
        )


def check_count(count: int, data: Path, name: str) -> None:
    """Raise DataError for too few inputs."""
    if count < MIN_INPUTS:
        raise DataError(f"{data}: {count} {name}, give at least {MIN_INPUTS}")

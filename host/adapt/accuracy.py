"""How often each submodel is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from host.adapt.batches import BatchSource
from host.adapt.model import ElasticClassifier
from host.adapt.options import LayerChoice

_BATCH = 128


@dataclass(frozen=True, slots=True)
class SubmodelAccuracy:
    """One submodel's share of right answers."""

    layers: int
    slices: int
    accuracy: float  # 0 to 1


def measure_accuracy(
    model: ElasticClassifier, data: BatchSource, choices: Sequence[LayerChoice], widths: Sequence[int],
    done: Callable[[int], None] = lambda _: None,
) -> tuple[SubmodelAccuracy, ...]:  # fmt: skip
    """Every layer choice at every width, by depth, then width. done is told how many widths are."""
    right = np.zeros((len(choices), len(widths)), np.int64)
    batches = list(data.in_order_of_length(_BATCH))
    for column, slices in enumerate(widths):
        for batch in batches:
            for row, logits in enumerate(model.logits(batch, slices, choices)):
                right[row, column] += np.count_nonzero(np.argmax(logits, -1) == np.asarray(batch.labels))
        done(column + 1)
    return tuple(
        SubmodelAccuracy(len(choice), slices, float(right[row, column] / len(data)))
        for row, choice in enumerate(choices)
        for column, slices in enumerate(widths)
    )

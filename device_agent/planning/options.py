"""The bitwidths that each shard may take, as arrays: what each costs to read and prepare, and what it loses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.costs import kind_of
from device_agent.planning.facts import Facts
from shard_store.template import TemplateKind

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Options:
    """All choices of one kind of layer. Arrays are (layers, slices, bitwidths) unless they say otherwise."""

    kind: TemplateKind
    bitwidths: npt.NDArray[np.int64]  # (bitwidths,)
    nbytes: npt.NDArray[np.int64]
    transfer_ms: Floats  # of the bytes, without latency
    prepare_ms: Floats  # without the layer's own
    load_ms: Floats  # transfer and prepare
    loss: Floats
    best: Indices  # (layers, slices): least loss, then least load
    least_loss: Floats  # (layers, slices): of a layer's slices up to this one, at the best

    @property
    def key(self) -> tuple[int, ...]:
        """The bitwidths."""
        return tuple(self.bitwidths.tolist())


def options_of(facts: Facts, bitwidths: Sequence[int]) -> Options:
    """The options of these bitwidths, all of one kind and measured."""
    kind = kind_of(bitwidths)
    nbytes = np.moveaxis(np.array([facts.shard_bytes[b] for b in bitwidths], np.int64), 0, -1)
    loss = np.moveaxis(np.array([facts.profile.shard_loss[b] for b in bitwidths], np.float64), 0, -1)
    transfer_ms = nbytes / facts.costs.read.bytes_per_ms
    shard_ms = np.array([facts.costs.prepare[kind].shard_ms[b] for b in bitwidths])
    prepare_ms = np.broadcast_to(shard_ms, loss.shape)
    load_ms = transfer_ms + prepare_ms
    best = np.lexsort((load_ms, loss), axis=-1)[..., 0]
    least_loss = np.cumsum(loss.min(axis=2), axis=1)
    return Options(kind, np.array(bitwidths), nbytes, transfer_ms, prepare_ms, load_ms, loss, best, least_loss)

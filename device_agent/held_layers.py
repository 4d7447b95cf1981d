"""Layers that stay in memory between passes: ready to run, or as stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from device_agent.loading import LayerSource, LoadedLayer, Preloaded
from device_agent.memory import Ledger
from device_agent.plan import LayerPlan, Plan, Residency


@dataclass(frozen=True, slots=True)
class LayerKey:
    """What makes two layers that are ready to run interchangeable."""

    layer: int
    bitwidths: tuple[int, ...]
    sequence: int


_Held: TypeAlias = LayerKey | LayerPlan  # ready to run, or as stored


class HeldLayers:
    """Counts and frees what it holds. Not thread-safe: one pass at a time."""

    def __init__(self, source: LayerSource, ledger: Ledger) -> None:
        self._source, self._ledger = source, ledger
        self._ready: dict[LayerKey, LoadedLayer] = {}
        self.preloaded: dict[LayerPlan, Preloaded] = {}

    def ready(self, layer: LayerPlan, sequence: int) -> LoadedLayer | None:
        """The layer, if it is ready to run."""
        return self._ready.get(_key(layer, sequence))

    def missing(self, layers: Sequence[LayerPlan], sequence: int) -> list[LayerPlan]:
        """Those that are not ready to run."""
        return [layer for layer in layers if _key(layer, sequence) not in self._ready]

    def keep(self, layer: LayerPlan, sequence: int, loaded: LoadedLayer) -> None:
        """Hold a loaded layer, which has been counted already."""
        self._ready[_key(layer, sequence)] = loaded

    def unread(self, plan: Plan) -> list[LayerPlan]:
        """The layers that the plan wants to find as stored and does not."""
        preloaded = (layer for layer in plan.layers if layer.residency is Residency.PRELOADED)
        return [layer for layer in preloaded if layer not in self.preloaded]

    def preload(self, layer: LayerPlan) -> None:
        """Read a layer, to be held as stored."""
        self.preloaded[layer] = self._source.preload(layer)
        self._ledger.add(self.preloaded[layer].nbytes)

    def present(self, plan: Plan, sequence: int) -> frozenset[int]:
        """The layers of a plan that are in memory already, in the form that it wants them."""
        return frozenset(
            layer.layer
            for layer in plan.layers
            if (layer.residency is Residency.RESIDENT and _key(layer, sequence) in self._ready)
            or (layer.residency is Residency.PRELOADED and layer in self.preloaded)
        )

    def idle_bytes(self, plan: Plan, sequence: int, room_bytes: int) -> int:
        """Of layers that are of no use for a plan but may stay meanwhile."""
        idle = self._idle(plan, sequence)
        return sum(idle.values()) - sum(idle[layer] for layer in _without_room(idle, room_bytes))

    def make_room(self, plan: Plan, sequence: int, room_bytes: int) -> None:
        """Free layers that are of no use for a plan, oldest first, until the others fit into what it leaves."""
        for layer in _without_room(self._idle(plan, sequence), room_bytes):
            self._drop(layer)

    def _idle(self, plan: Plan, sequence: int) -> dict[_Held, int]:
        """Layers that are of no use for a plan, oldest first, with their bytes; first those that are as stored."""
        needed = {_key(layer, sequence) for layer in plan.layers if layer.residency is Residency.RESIDENT}
        idle: dict[_Held, int] = {
            layer: held.nbytes for layer, held in self.preloaded.items() if layer not in plan.layers
        }
        return idle | {key: kept.nbytes for key, kept in self._ready.items() if key not in needed}

    def shrink(self, budget_bytes: int) -> None:
        """Free layers from the top down, first those that are as stored, until what is held fits a budget."""
        stored = sorted(self.preloaded, key=lambda layer: layer.layer, reverse=True)
        ready = sorted(self._ready, key=lambda key: key.layer, reverse=True)
        held: tuple[_Held, ...] = (*stored, *ready)
        for layer in held:
            if self._ledger.held_bytes > budget_bytes:
                self._drop(layer)

    def _drop(self, layer: _Held) -> None:
        if isinstance(layer, LayerKey):
            self.free(self._ready.pop(layer))
        else:
            self._ledger.add(-self.preloaded.pop(layer).nbytes)

    def free(self, loaded: LoadedLayer) -> None:
        """Free a layer, held or not."""
        self._source.executor.release(loaded.handle)
        self._ledger.add(-loaded.nbytes)

    def clear(self) -> None:
        """Free all."""
        held: tuple[_Held, ...] = (*self.preloaded, *self._ready)
        for layer in held:
            self._drop(layer)


def _without_room(idle: Mapping[_Held, int], room_bytes: int) -> Iterator[_Held]:
    """The first of these layers, until the others fit."""
    excess_bytes = sum(idle.values()) - room_bytes
    for layer, nbytes in idle.items():
        if excess_bytes <= 0:
            return
        excess_bytes -= nbytes
        yield layer


def _key(layer: LayerPlan, sequence: int) -> LayerKey:
    return LayerKey(layer.layer, layer.bitwidths, sequence)

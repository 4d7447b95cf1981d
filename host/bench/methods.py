"""What is compared: STI, and the baselines of its paper, all on the same engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from shard_store.geometry import EXACT_BITWIDTH


class MethodKind(str, Enum):
    """How weights come into memory."""

    STI = "STI"  # the planner decides
    LOAD_EXEC = "Load&Exec"  # all layers load, then all execute, in every request
    STD_PIPELINE = "StdPL"  # layer by layer, loading beside executing, in every request
    PRELOAD_MODEL = "PreloadModel"  # all layers stay in memory


@dataclass(frozen=True, slots=True)
class Method:
    """A method, and the bitwidth of all its weights; None where the planner chooses them."""

    kind: MethodKind
    bits: int | None = None

    @property
    def name(self) -> str:
        """As the paper calls it."""
        shown = self.bits is not None and self.kind is not MethodKind.LOAD_EXEC
        return f"{self.kind.value}-{self.bits}" if shown else self.kind.value

    @property
    def keeps(self) -> int:
        """How much of the model it may hold between requests: nothing, some, all."""
        return {MethodKind.STI: 1, MethodKind.PRELOAD_MODEL: 2}.get(self.kind, 0)

    @property
    def preloads(self) -> bool:
        """Whether it holds the whole model between requests."""
        return self.kind is MethodKind.PRELOAD_MODEL


STI = Method(MethodKind.STI)
METHODS = (
    STI,
    Method(MethodKind.LOAD_EXEC, EXACT_BITWIDTH),
    *(Method(MethodKind.STD_PIPELINE, bits) for bits in (32, 8, 6, 2)),
    *(Method(MethodKind.PRELOAD_MODEL, bits) for bits in (32, 8, 6)),
)


def methods_for(bitwidths: Sequence[int]) -> tuple[Method, ...]:
    """The methods that a store with these bitwidths can run."""
    return tuple(method for method in METHODS if method.bits is None or method.bits in bitwidths)

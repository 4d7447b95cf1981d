"""What `sti adapt` is asked for."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from shard_store.errors import TrainingError
from shard_store.head import Pooling

LayerChoice = tuple[int, ...]  # which layers make up a submodel, from the bottom
_CPU_FACTS = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86-64 and arm64


class Precision(str, Enum):
    """The type in which matrices are multiplied; weights are kept in float32."""

    AUTO = "auto"  # bfloat16 where the CPU multiplies it
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    def resolved(self) -> "Precision":
        """The type for this machine."""
        if self is not Precision.AUTO:
            return self
        facts = _CPU_FACTS.read_text("utf-8", "replace") if _CPU_FACTS.is_file() else ""
        return Precision.BFLOAT16 if _BFLOAT16_FLAGS & set(facts.split()) else Precision.FLOAT32


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """How to train."""

    steps: int = 1200
    batch: int = 64
    learning_rate: float = 1e-4  # at its peak
    pooling: Pooling | None = None  # None: the checkpoint's; mean where a head is added
    slices: int | None = None  # None: one per attention head
    seed: int = 0
    max_tokens: int = 128
    precision: Precision = Precision.AUTO
    layer_choices: tuple[LayerChoice, ...] = ()  # for depths that are not the first n layers
    save_every: int = 100  # steps

    def __post_init__(self) -> None:
        for name, lowest in (("steps", 1), ("batch", 1), ("seed", 0), ("max_tokens", 2), ("save_every", 1)):
            if getattr(self, name) < lowest:
                option = name.replace("_", "-")
                raise TrainingError(f"--{option} is {getattr(self, name)}, must be at least {lowest}")
        if not 0 < self.learning_rate <= 1:
            raise TrainingError(f"--learning-rate is {self.learning_rate}, must be above 0 and at most 1")

    def choices(self, layers: int) -> tuple[LayerChoice, ...]:
        """The layers of each depth, 1 to all: the first ones, unless stated otherwise.

        Raises:
            TrainingError: a stated choice names layers that do not exist, not in order, or not all where it must.
        """
        by_depth = {depth: tuple(range(depth)) for depth in range(1, layers + 1)}
        for choice in self.layer_choices:
            text = ",".join(map(str, choice))
            if not choice or sorted(set(choice)) != list(choice) or choice[0] < 0 or choice[-1] >= layers:
                raise TrainingError(f"--layer-choice {text}: name layers from 0 to {layers - 1}, each once, in order")
            by_depth[len(choice)] = choice
        return tuple(by_depth.values())

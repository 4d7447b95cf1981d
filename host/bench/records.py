"""What has been measured, one file each, so that an interrupted bench goes on where it stopped."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import mode
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from device_agent.plan import Plan, plan_to_json
from host.bench.cgroups import Limits
from host.bench.methods import Method
from host.bench.settings import Setting
from shard_store.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in ms; measured_ms is the whole answer, total_ms its pipeline. plan: index in its cell."""

    plan: int
    predicted_ms: float
    measured_ms: float
    total_ms: float
    read_ms: float
    prepare_ms: float
    execute_ms: float
    wait_ms: float
    predicted_peak_bytes: int
    model_peak_bytes: int
    process_growth_bytes: int  # of the whole process, over its size when idle


@dataclass(frozen=True, slots=True)
class CellRecord:
    """One method at one target in one setting, cold."""

    setting: Setting
    limits: Limits  # that the kernel enforced
    target_ms: float
    method: Method
    predicted_loss: float
    reason: str | None
    plans: tuple[Plan, ...]
    samples: tuple[Sample, ...]

    @property
    def main_plan(self) -> Plan:
        """The plan that ran most often: the agent corrects its costs by what it sees, and may change its mind."""
        return self.plans[mode(sample.plan for sample in self.samples)]


@dataclass(frozen=True, slots=True)
class WarmRecord:
    """Answers of one plan with the store in the page cache."""

    cpu_percent: float
    measured_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AccuracyRecord:
    """How often the best label was right."""

    right: int
    texts: int

    @property
    def percent(self) -> float:
        """Of the texts."""
        return 100 * self.right / self.texts


def plan_key(plan: Plan) -> str:
    """Names a whole plan."""
    return sha256(plan_to_json(plan).encode()).hexdigest()[:16]


def answers_key(plan: Plan) -> str:
    """Names what decides the answers: layers and bitwidths. Streamed or resident, they are equal byte for byte."""
    return sha256(repr([(layer.layer, layer.bitwidths) for layer in plan.layers]).encode()).hexdigest()[:16]


class Records:
    """Files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def known(self, name: str, kind: type[T]) -> T | None:
        """What was measured before, if anything. Raises DataError for a damaged file."""
        path = self.folder / f"{name}.json"
        try:
            return TypeAdapter(kind).validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise DataError(f"{path}: not a record of this version; remove it") from error

    def keep(self, name: str, record: T) -> T:
        """Write a record, whole or not at all."""
        path = self.folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        partial.write_bytes(TypeAdapter(type(record)).dump_json(record, indent=1))
        partial.replace(path)
        return record

    def once(self, name: str, kind: type[T], measure: Callable[[], T]) -> T:
        """The record, measured now if it is not there."""
        found = self.known(name, kind)
        return self.keep(name, measure()) if found is None else found

"""A device whose costs are known is measured right."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from device_agent.costing.known import known_costs
from device_agent.costing.measure import device_name, measure_costs, model_digest
from device_agent.costs import DeviceCosts
from device_agent.costs_file import write_costs
from device_agent.phases import PhaseTimes
from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.planning.schedule import Way, Work, schedule
from shard_store.errors import CostsError
from shard_store.manifest import Manifest
from shard_store.reader import Store
from shard_store.template import TemplateKind
from tests.costs import small_costs
from tests.stores import write_store

READ_BYTES = 1000


@dataclass
class KnownDevice:
    """Takes the time that its costs say, and 7 times as long the first time it does anything."""

    manifest: Manifest
    costs: DeviceCosts
    resident: int = 99
    device: str = "known"
    seen: set[tuple[Plan, int]] = field(default_factory=set)

    def trial(self, plan: Plan, sequence: int, *, cold: bool = False) -> PhaseTimes:
        again = cold or (plan, sequence) in self.seen
        self.seen.add((plan, sequence))
        times = PhaseTimes()
        for layer in plan.layers:
            streamed = layer.residency is Residency.STREAMED
            slices = len(layer.bitwidths)
            execute = self.costs.execute_ms(layer.kind, slices, sequence, loading=streamed)
            prepare = self.costs.prepare_ms(layer.bitwidths) if streamed else 0.0
            reads, nbytes = self.read_sizes(layer)
            read = self.costs.read.ms(nbytes, reads) if cold else 0.0
            times += PhaseTimes(read, prepare, execute)
        times = replace(times, total_ms=self._total_ms(plan, sequence, cold=cold))
        return times if again else times + times + times + times + times + times + times

    def _total_ms(self, plan: Plan, sequence: int, *, cold: bool) -> float:
        slices, kind = plan.slices, plan.layers[0].kind
        execute_ms = self.costs.execute_ms(kind, slices, sequence, loading=False)
        sizes = [self.read_sizes(layer) for layer in plan.layers]
        work = [
            Work(self.costs.read.ms(nbytes, reads) if cold else 0.0, self.costs.prepare_ms(layer.bitwidths), execute_ms)
            for layer, (reads, nbytes) in zip(plan.layers, sizes, strict=True)
        ]
        way = Way(
            plan.loading_agents, plan.layers_in_flight, loading_factor=self.costs.loading_factor,
            crowding_factor=self.costs.crowding_factor,
        )  # fmt: skip
        return schedule(range(len(work)), work, way)[-1].execute.end_ms

    def read_sizes(self, layer: LayerPlan) -> tuple[int, int]:
        nbytes = sum(layer.bitwidths) * 100
        return -(-nbytes // READ_BYTES), nbytes

    def resident_layers(self, plan: Plan, sequence: int) -> int:
        return min(self.resident, len(plan.layers))

    def overhead_ms(self) -> float:
        return self.costs.pass_ms


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    write_store(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        return store.manifest


def costs_of(manifest: Manifest) -> DeviceCosts:
    rows = dict.fromkeys(manifest.description.sequences, (1.0, 2.0, 3.0, 4.0))
    costs = small_costs()
    return DeviceCosts(
        "known", model_digest(manifest), costs.read, costs.prepare, dict.fromkeys(TemplateKind, rows), 1.5, 0.75, 2.25
    )


@pytest.mark.parametrize("resident", [0, 1, 99])
def test_what_is_known_is_found(manifest: Manifest, resident: int) -> None:
    steps: list[tuple[int, int]] = []
    known = costs_of(manifest)
    found = measure_costs(KnownDevice(manifest, known, resident), lambda _, done, total: steps.append((done, total)))
    assert found.read.latency_ms == pytest.approx(known.read.latency_ms)
    assert found.read.bytes_per_ms == pytest.approx(known.read.bytes_per_ms)
    for kind in TemplateKind:
        bitwidths = manifest.bitwidths[:1] if kind is TemplateKind.INT8 else manifest.bitwidths[1:]
        assert found.prepare_ms(bitwidths * 3) == pytest.approx(known.prepare_ms(bitwidths * 3))
    factor = 1.0 if resident else 1.5  # with nothing resident, every layer was measured beside loading
    assert found.loading_factor == pytest.approx(1.5 / (1.0 if resident else 1.5))
    if resident:
        assert found.crowding_factor == pytest.approx(known.crowding_factor, rel=1e-5)
    for sequence in manifest.description.sequences:
        row = found.execute[TemplateKind.INT8][sequence]
        assert row == pytest.approx(tuple(factor * ms for ms in (1.0, 2.0, 3.0, 4.0)))
    assert (found.pass_ms, found.device, found.model) == (0.75, "known", model_digest(manifest))
    done, totals = zip(*steps, strict=True)
    assert list(done) == sorted(done) and done[-1] == totals[-1] and len(set(totals)) == 1


def test_known_costs_are_not_measured_again(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    first = known_costs(path, KnownDevice(manifest, costs_of(manifest)), lambda *_: None)
    silent = KnownDevice(manifest, costs_of(manifest))
    assert known_costs(path, silent, lambda *_: None) == first
    assert not silent.seen


def test_costs_of_another_device_or_model_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    costs = costs_of(manifest)
    write_costs(path, costs)
    with pytest.raises(CostsError, match="measured on 'known', this is 'other'; remove the file or name another"):
        known_costs(path, KnownDevice(manifest, costs, device="other"), lambda *_: None)
    write_costs(path, small_costs())
    with pytest.raises(CostsError, match="measured on 'x'"):
        known_costs(path, KnownDevice(manifest, costs), lambda *_: None)
    with pytest.raises(CostsError, match="a model of other sizes"):
        known_costs(path, KnownDevice(manifest, costs, device="x"), lambda *_: None)


def test_a_device_is_named_by_what_decides_its_speed(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nmodel name\t: Fast One\nmodel name\t: Fast Two\n")
    assert ", Fast One, " in device_name("runtime 1", cpuinfo)
    assert device_name("runtime 1", tmp_path / "none").endswith("runtime 1")

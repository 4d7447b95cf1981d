"""The measurements of one bench, each made once and kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from device_agent.plan import Plan
from device_agent.planning.facts import Facts
from device_agent.planning.memory_use import predicted_peak_bytes
from host.bench.accuracy import accuracy
from host.bench.baselines import plans_with_margins
from host.bench.emulated import EmulatedPhone, Session
from host.bench.facts import bench_facts, default_memory_bytes, most_bytes
from host.bench.methods import STI, Method, methods_for
from host.bench.options import BenchOptions
from host.bench.probe import PAUSE_S, Probe, Timed
from host.bench.records import AccuracyRecord, CellRecord, Records, WarmRecord, answers_key, plan_key
from host.bench.settings import Setting, default_targets
from host.bench.subject import Subject

Progress = Callable[[str, int, int], None]  # what is done, steps done, steps in all

_ROOM = 1.25  # memory of an agent, over what the most greedy baseline is predicted to take
_ROOM_BYTES = 32 << 20
_WARM_ROOM = 1.1  # a plan that began with layers in memory may take a little more from nothing
_ACCURACY_THREADS = 2
_KEPT_SHARE = 0.95  # of a baseline's runs, or a smaller submodel is tried


@dataclass(frozen=True, slots=True)
class Job:
    """One store on one emulated phone."""

    subject: Subject
    records: Records
    phone: EmulatedPhone
    options: BenchOptions
    costs_folder: Path
    progress: Progress

    def facts(self, setting: Setting) -> Facts:
        """What plans are made from in a setting."""
        self.progress(f"calibrate {setting.name}", 0, 1)
        costs = self.phone.calibrate(setting, self.costs_path(setting))
        return bench_facts(self.subject.path, costs)

    def costs_path(self, setting: Setting) -> Path:
        """Where the setting's costs are kept."""
        return self.costs_folder / f"{setting.name}.json"

    def targets(self, facts: Facts) -> tuple[float, ...]:
        """Targets of a setting, in ms."""
        return self.options.targets_ms or default_targets(facts, self.subject.sequence, self.options.targets)

    def memory_bytes(self, facts: Facts) -> int:
        """What STI may take."""
        return self.options.memory_bytes or default_memory_bytes(facts, self.subject.sequence)

    def cold(self, setting: Setting, facts: Facts) -> list[CellRecord]:
        """All methods at all targets of a setting, each request's weights from flash."""
        methods = sorted(methods_for(self.subject.manifest.bitwidths), key=lambda method: method.keeps)
        cells = [(target, method) for method in methods for target in self.targets(facts)]
        names = [f"cold/{setting.name}/{target:g}-{method.name}" for target, method in cells]
        found = [self.records.known(name, CellRecord) for name in names]
        if None in found:
            with self.phone.cold(setting, self.costs_path(setting), self._agent_bytes(facts)) as fresh:
                session = self._probe(fresh, setting.cpu_percent).primed()
                for index, (target, method) in enumerate(cells):
                    self.progress(f"{setting.name} {target:g} ms {method.name}", index, len(cells))
                    if found[index] is None:
                        record = self._cell(session, setting, facts, target, method)
                        found[index] = self.records.keep(names[index], record)
        return [record for record in found if record]

    def _cell(self, session: Session, setting: Setting, facts: Facts, target_ms: float, method: Method) -> CellRecord:
        probe = self._probe(session, setting.cpu_percent)
        if method == STI:
            timed = probe.elastic(target_ms, self.memory_bytes(facts))
        else:
            timed = self._baseline(probe, facts, method, target_ms)
        return CellRecord(
            setting=setting, limits=session.limits, target_ms=target_ms, method=method,
            predicted_loss=timed.predicted_loss, reason=timed.reason, plans=timed.plans, samples=timed.samples,
        )  # fmt: skip

    def _baseline(self, probe: Probe, facts: Facts, method: Method, target_ms: float) -> Timed:
        """The best submodel that keeps the target in nearly all runs: what STI learns from its runs, others get, too.

        If none does, the quickest that was tried. Twice as many runs as STI's, because the luckiest of some submodels
        is taken by the very runs that count.
        """
        probe = replace(probe, repeats=2 * probe.repeats)
        tried: list[Timed] = []
        for baseline in plans_with_margins(facts, method, target_ms, self.subject.sequence):
            tried.append(probe.planned(baseline))
            if tried[-1].kept_share(target_ms) >= _KEPT_SHARE:
                break
        return tried[-1]

    def _probe(self, session: Session, cpu_percent: float) -> Probe:
        subject = self.subject
        pause_s = PAUSE_S * 100 / min(100.0, cpu_percent)
        return Probe(session, subject.timed, subject.classifies, pause_s, self.options.repeats)

    def _agent_bytes(self, facts: Facts) -> int:
        return int(most_bytes(facts, self.subject.sequence) * _ROOM) + _ROOM_BYTES

    def warm(self, cells: Sequence[CellRecord], facts: Mapping[Setting, Facts]) -> dict[tuple[float, str], WarmRecord]:
        """Every plan that ran, with the store in the page cache: by processor speed and plan_key."""
        wanted = {(cell.setting.cpu_percent, plan_key(plan)): (cell, plan) for cell, plan in main_plans(cells)}
        found: dict[tuple[float, str], WarmRecord] = {}
        for cpu_percent in self.options.cpu_percent:
            keys = {key: pair for key, pair in wanted.items() if key[0] == cpu_percent}
            names = {key: f"warm/cpu-{cpu_percent:g}/{key[1]}" for key in keys}
            found |= {key: r for key, name in names.items() if (r := self.records.known(name, WarmRecord))}
            missing = sorted((key for key in keys if key not in found), key=lambda key: _kept(keys[key][1]))
            if not missing:
                continue
            some = facts[keys[missing[0]][0].setting]
            with self.phone.warm(cpu_percent, self._agent_bytes(some)) as session:
                probe = self._probe(session, cpu_percent)
                for index, key in enumerate(missing):
                    self.progress(f"warm, processor at {cpu_percent:g} %", index, len(missing))
                    peak = int(predicted_peak_bytes(some, keys[key][1], self.subject.sequence) * _WARM_ROOM)
                    record = WarmRecord(cpu_percent, probe.times_ms(keys[key][1], peak))
                    found[key] = self.records.keep(names[key], record)
        return found

    def accuracies(self, cells: Sequence[CellRecord], facts: Facts) -> dict[str, AccuracyRecord]:
        """Of every plan that ran: by answers_key. Empty for a model without classes."""
        if not self.subject.classifies:
            return {}
        plans = {answers_key(plan): plan for _, plan in main_plans(cells)}
        names = {key: f"accuracy/{key}" for key in plans}
        found = {key: r for key, name in names.items() if (r := self.records.known(name, AccuracyRecord))}
        missing = [key for key in plans if key not in found]
        if missing:
            texts = len(self.subject.data.texts)
            with self.phone.warm(100, self._agent_bytes(facts), _ACCURACY_THREADS) as session:
                for index, key in enumerate(missing):
                    step = partial(self._accuracy_step, index * texts, len(missing) * texts)
                    record = accuracy(session, self.subject, plans[key], step)
                    found[key] = self.records.keep(names[key], record)
        return found

    def _accuracy_step(self, before: int, total: int, done: int) -> None:
        self.progress("accuracy", before + done, total)


def _kept(plan: Plan) -> int:
    return len(plan.layers) - plan.passing


def main_plans(cells: Sequence[CellRecord]) -> Iterator[tuple[CellRecord, Plan]]:
    """The plan that a cell ran most often, of each cell."""
    for cell in cells:
        yield cell, cell.main_plan

"""Times requests of one kind on an agent."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from typing import Any

from device_agent.costing.trials import REST_S  # before every request that counts, as when costs are measured
from device_agent.plan import Plan, parse_plan, plan_document
from host.bench.baselines import Baseline
from host.bench.emulated import Session
from host.bench.records import Sample
from host.client import Run, RunOptions, Text

WARM_UP = 2  # requests before the first that counts: checksums, learning to pack, layers that are to stay
ROUND = 5  # requests with a target, after which the agent has time to plan anew, and to load what is to stay
_MOST_ROUNDS = 5  # after which plans may go on changing
PAUSE_S = 0.2  # between rounds, at full speed
LEAST_SAMPLES = 5
MIB = 1 << 20
_ROUNDING_BYTES = 64
_WAKING = RunOptions(layers=1, slices=1, truncate=True)
CELL_SECONDS = 10.0  # after which the least number of requests is enough


@dataclass(frozen=True, slots=True)
class Timed:
    """Requests that counted, and the plans that they ran."""

    plans: tuple[Plan, ...]
    samples: tuple[Sample, ...]
    predicted_loss: float
    reason: str | None

    def kept_share(self, target_ms: float) -> float:
        """How many of the requests were answered in time."""
        return sum(sample.measured_ms <= target_ms for sample in self.samples) / len(self.samples)


@dataclass(frozen=True, slots=True)
class Probe:
    """One agent and the texts that it is asked, in turn."""

    session: Session
    texts: Sequence[Text]
    classifies: bool
    pause_s: float  # between requests with targets that do not count
    repeats: int

    def primed(self) -> Session:
        """Ask for every text once, so that its embedding rows are in the page cache: they are not what is compared.

        The process with its libraries in memory then is what later sizes are compared with.
        """
        for text in self.texts:
            self._ask(text, _WAKING)
        return replace(self.session, idle_bytes=self.session.client.health().process_resident_bytes)

    def elastic(self, target_ms: float, memory_bytes: int) -> Timed:
        """Requests with a target, which the agent plans for."""
        options = RunOptions(target_ms=target_ms, memory_mb=memory_bytes / MIB, show_plan=True, truncate=True)
        self._settle(options, self.pause_s + 2 * target_ms / 1e3)
        runs = self._runs(options)
        last = runs[-1]
        plans: list[Plan] = []
        samples = []
        for run in runs:
            (document,) = run.plans or ()
            plan = parse_plan(document)
            if plan not in plans:
                plans.append(plan)
            samples.append(self._sample(run, plans.index(plan), run.predicted_ms or 0.0, run.predicted_peak_bytes or 0))
        return Timed(tuple(plans), tuple(samples), last.predicted_loss or 0.0, last.reason)

    def planned(self, baseline: Baseline) -> Timed:
        """Requests with a plan, in no more memory than that takes: whatever else is in memory has to go."""
        options = self._options(baseline.plan, baseline.predicted_peak_bytes)
        self._warm_up(options)
        samples = [
            self._sample(run, 0, baseline.predicted_ms, baseline.predicted_peak_bytes) for run in self._runs(options)
        ]
        reason = (
            None if baseline.fits else f"no submodel is predicted within the target; the fastest is {_shape(baseline)}"
        )
        return Timed((baseline.plan,), tuple(samples), baseline.predicted_loss, reason)

    def times_ms(self, plan: Plan, memory_bytes: int) -> tuple[float, ...]:
        """Answers of a plan, without predictions."""
        options = self._options(plan, memory_bytes)
        self._warm_up(options)
        return tuple(run.answer_ms for run in self._runs(options))

    def _options(self, plan: Plan, memory_bytes: int) -> RunOptions:
        return RunOptions(plan=plan_document(plan), memory_mb=(memory_bytes + _ROUNDING_BYTES) / MIB, truncate=True)

    def _warm_up(self, options: RunOptions) -> None:
        for text in islice(cycle(self.texts), WARM_UP):
            self._ask(text, options)

    def _settle(self, options: RunOptions, pause_s: float) -> None:
        """Ask until a whole round runs one plan, so that costs have been corrected by what runs show.

        Rests within a round are those of requests that count, and after longer ones everything is slower; so a request
        with a given plan, which teaches nothing, follows each pause: the last one's, which changes nothing either.
        """
        self._ask(self.texts[0], _WAKING)
        before: Run | None = None
        for _ in range(_MOST_ROUNDS):
            if before is not None:
                time.sleep(pause_s)
                self._ask(self.texts[0], _by_plan_of(before))
            runs = []
            for text in islice(cycle(self.texts), ROUND):
                time.sleep(REST_S)
                runs.append(self._ask(text, options))
            if before is not None and all(run.plans == before.plans for run in runs):
                return
            before = runs[-1]

    def _runs(self, options: RunOptions) -> list[Run]:
        runs: list[Run] = []
        started = time.monotonic()
        for text in islice(cycle(self.texts), self.repeats):
            time.sleep(REST_S)
            runs.append(self._ask(text, options))
            if len(runs) >= LEAST_SAMPLES and time.monotonic() - started > CELL_SECONDS:
                break
        return runs

    def _ask(self, text: Text, options: RunOptions) -> Run:
        if self.classifies:
            return self.session.client.classify([text], options).sti
        assert isinstance(text, str)
        return self.session.client.embed([text], options).sti

    def _sample(self, run: Run, plan: int, predicted_ms: float, predicted_peak_bytes: int) -> Sample:
        phases: dict[str, Any] = {
            name: value for name, value in asdict(run).items()
            if name in {"total_ms", "read_ms", "prepare_ms", "execute_ms", "wait_ms", "model_peak_bytes"}
        }  # fmt: skip
        return Sample(
            plan=plan,
            predicted_ms=predicted_ms,
            measured_ms=run.answer_ms,
            predicted_peak_bytes=predicted_peak_bytes,
            process_growth_bytes=run.process_peak_bytes - self.session.idle_bytes,
            **phases,
        )


def _by_plan_of(run: Run) -> RunOptions:
    """The same as was run for a target, but by its plan; in all of the agent's memory, so that nothing has to go."""
    (document,) = run.plans or ()
    return RunOptions(plan=document, truncate=True)


def _shape(baseline: Baseline) -> str:
    return f"{len(baseline.plan.layers)} x {baseline.plan.slices} in {baseline.predicted_ms:.1f} ms"

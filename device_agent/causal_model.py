"""A decoder over the pipeline: caches, prefill in chunks, steps that several texts share, and logits.

Every pass goes over the same shards; its sequence bucket only says how many tokens it takes. What fits stays in memory:
first the layers for steps of one token, from the bottom up, then blocks of the vocabulary's head.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from device_agent.causal_activations import CausalActivations, Segment, causal_activation_bytes
from device_agent.key_values import KeyValueCache, cache_bytes
from device_agent.litert import Runtime
from device_agent.loading import LayerSource
from device_agent.memory import MIB, Footprint, Ledger, fit_residency
from device_agent.norm import apply_norm
from device_agent.phases import PhaseTimes
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import Plan, Residency
from device_agent.prompt import PromptEncoder
from device_agent.vocabulary import VocabularyReader
from shard_store.errors import BudgetError, RequestError
from shard_store.reader import ShardReader
from shard_store.vocabulary_head import head_bitwidth

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a decoder shares with its engine."""

    source: LayerSource
    reader: ShardReader
    pipeline: Pipeline
    runtime: Runtime
    ledger: Ledger
    footprint: Callable[[Plan, int, int], Footprint]  # of a pass: plan, sequence, texts
    budget_bytes: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Drafting:
    """What steps with drafts may take. most: drafts in a step, those of all texts together."""

    sequence: int  # the bucket of such steps
    most: int
    vocabulary: int

    @property
    def logits_bytes(self) -> int:
        """Memory of the drafts' logits."""
        return 4 * self.vocabulary * self.most


class CausalModel:
    """Not thread-safe: the engine serialises."""

    def __init__(self, parts: Parts, encoder: PromptEncoder) -> None:
        self._parts, self._encoder = parts, encoder
        self._description = parts.source.store.manifest.description
        self._geometry = self._description.geometry
        self._frequencies = parts.source.resident_tensors.get("rotary.frequency")
        self._head = VocabularyReader(parts.source.store, parts.reader)
        self._cached_bytes = 0
        parts.ledger.add(self._head.working_bytes)

    @property
    def max_tokens(self) -> int:
        """The longest text, prompt and answer together."""
        return self._description.max_tokens

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._head.vocabulary

    def open_cache(self, plan: Plan, capacity: int) -> KeyValueCache:
        """Room to remember a text of `capacity` tokens, inside the memory budget.

        Raises RequestError for more tokens than the model has positions, BudgetError with the numbers if the cache does
        not fit beside what else is held.
        """
        if not 1 <= capacity <= self.max_tokens:
            raise RequestError(f"{capacity} tokens of prompt and answer, the model has room for {self.max_tokens}")
        nbytes = cache_bytes(self._geometry, len(plan.layers), plan.slices, capacity)
        self._admit(plan, capacity, nbytes)
        self._cached_bytes += nbytes
        try:
            self._arrange(plan)  # first what is in the way goes
            self._parts.pipeline.make_room(self._job(plan, self._shortest))
        except BaseException:
            self._cached_bytes -= nbytes
            raise
        self._parts.ledger.add(nbytes)
        return KeyValueCache(self._geometry, len(plan.layers), plan.slices, capacity)

    def close_cache(self, cache: KeyValueCache) -> None:
        """Forget a text."""
        self._cached_bytes -= cache.nbytes
        self._parts.ledger.add(-cache.nbytes)
        if not self._cached_bytes:
            self.rest()

    def rest(self) -> None:
        """Free layers that were loaded ahead of a step that is not to come."""
        self._parts.pipeline.rest()

    def _admit(self, plan: Plan, capacity: int, nbytes: int) -> None:
        footprint = self._footprint(plan, self._shortest, extra_bytes=nbytes - self._head.kept_bytes)
        least = _streamed(plan, in_flight=1)
        needed, budget = footprint.peak_bytes(least), self._parts.budget_bytes()
        if needed > budget:
            raise BudgetError(
                f"memory budget {budget / MIB:.1f} MiB is too small: the KV cache of {capacity} tokens takes "
                f"{nbytes / MIB:.1f} MiB, {needed / MIB:.1f} MiB in all; ask for fewer tokens or raise --memory-mb"
            )

    def _arrange(self, plan: Plan) -> None:
        """Keep as much of the head as the budget leaves once the layers have their part."""
        before, bitwidth = self._head.kept_bytes, head_bitwidth(max(plan.bitwidths))
        budget = self._parts.budget_bytes()
        without = self._footprint(plan, self._shortest, extra_bytes=-before)
        peak = without.peak_bytes(fit_residency(plan, without, budget))
        longest = self._footprint(plan, max(self._description.sequences), extra_bytes=-before)
        peak = max(peak, longest.peak_bytes(_streamed(plan, plan.layers_in_flight)))
        self._head.keep(bitwidth, max(0, budget - peak))
        self._parts.ledger.add(self._head.kept_bytes - before)

    def drafts(self, plan: Plan, texts: int, most: int) -> Drafting | None:
        """How a step of so many texts can check at most `most` guesses beside; None where it cannot, or would not pay.

        Several texts leave room in their bucket, which costs what it costs. One has a bucket to itself, and the next
        one takes more time to execute: that pays where layers are read meanwhile, and where those of both buckets stay.
        """
        longest = self._longest(plan)
        lengths = [length for length in self._description.sequences if texts <= length <= longest]
        if not lengths:
            return None
        own = sequence = lengths[0]
        if own == self._shortest:
            sequence = next((length for length in lengths if length >= texts + most), lengths[-1])
        drafting = Drafting(sequence, min(most, sequence - texts), self.vocabulary)
        if drafting.most < 1:
            return None
        footprint, budget = self._footprint(plan, sequence, drafting.logits_bytes), self._parts.budget_bytes()
        if footprint.peak_bytes(_least(plan)) > budget:
            return None
        if own != sequence and not self._both_stay(plan, footprint) and _stays(self._job(plan, own).plan):
            return None
        return drafting

    def advance(
        self, plan: Plan, segments: Sequence[Segment], cancelled: Callable[[], bool], drafting: Drafting | None = None
    ) -> tuple[Floats, PhaseTimes]:
        """Read the segments' tokens into their caches; logits (rows, vocabulary) behind the last token of each.

        A segment with drafts has a row for each of them, too. drafting: what the drafts were allowed by, also where
        this step has none but the next may. Texts share passes as far as their tokens fit a sequence bucket together.
        Raises what the pipeline raises; the caches then stay as they were before the pass that failed.
        """
        times = PhaseTimes()
        limit = self._longest(plan)
        ends: list[Floats] = [np.empty(0, np.float32)] * len(segments)
        # steps follow one another: the first layers of the next load while this one ends
        again = all(segment.is_step for segment in segments)
        for pieces in _passes(segments, limit):
            last, passed = self._run(plan, [piece for _, piece in pieces], cancelled, again=again, drafting=drafting)
            times += passed
            for (number, _), hidden in zip(pieces, last, strict=True):
                ends[number] = hidden
        hidden = apply_norm(np.concatenate(ends), "final_norm", self._parts.source.resident_tensors, self._geometry)
        with self._parts.ledger.holding(4 * self.vocabulary * sum(segment.drafts for segment in segments)):
            return self._head.logits(hidden, head_bitwidth(max(plan.bitwidths))), times

    def _run(
        self, plan: Plan, segments: Sequence[Segment], cancelled: Callable[[], bool], *,
        again: bool, drafting: Drafting | None,
    ) -> tuple[list[Floats], PhaseTimes]:  # fmt: skip
        """One pass; the last hidden states (wanted, hidden) of every segment."""
        counts = [len(segment.ids) for segment in segments]
        job = self._job_of(plan, segments, drafting)
        sequence = job.sequence
        self._parts.pipeline.make_room(job)
        with self._parts.ledger.holding(job.footprint.activation_bytes):
            activations = CausalActivations(
                self._parts.runtime,
                self._geometry,
                plan.slices,
                sequence,
                segments=segments,
                frequencies=self._frequencies,
            )
            try:
                ids = np.concatenate([segment.ids for segment in segments])
                positions = np.concatenate([segment.positions for segment in segments])
                activations.hidden[: len(ids)] = self._encoder.embeddings(ids, positions)
                times = self._parts.pipeline.run(job, [activations], cancelled, again=again)
                last = [
                    activations.hidden[end - segment.wanted : end].copy()
                    for segment, end in zip(segments, np.cumsum(counts).tolist(), strict=True)
                ]
            finally:
                activations.close()
        for segment, count in zip(segments, counts, strict=True):
            segment.cache.commit(count)
        return last, times

    def _job_of(self, plan: Plan, segments: Sequence[Segment], drafting: Drafting | None) -> Pass:
        """The pass that these segments need, or, among steps with drafts, the one that all of these can share.

        Layers that were loaded ahead, or stay, are of use to a pass of the same bucket only.
        """
        tokens = sum(len(segment.ids) for segment in segments)
        sequence = next(length for length in self._description.sequences if length >= tokens)
        if drafting is None:
            return self._job(plan, sequence)
        footprint, budget = self._footprint(plan, drafting.sequence, drafting.logits_bytes), self._parts.budget_bytes()
        job = Pass(fit_residency(plan, footprint, budget), drafting.sequence, footprint, budget)
        if sequence < drafting.sequence and _stays(job.plan) and self._both_stay(plan, footprint):
            return self._job(plan, sequence)
        return job

    def _job(self, plan: Plan, sequence: int) -> Pass:
        """Steps of one token keep layers in memory; longer passes do where there is room for both, and else stream."""
        budget, footprint = self._parts.budget_bytes(), self._footprint(plan, sequence)
        if sequence != self._shortest and not self._both_stay(plan, footprint):
            plan = _streamed(plan, plan.layers_in_flight)
        return Pass(fit_residency(plan, footprint, budget), sequence, footprint, budget)

    def _both_stay(self, plan: Plan, footprint: Footprint) -> bool:
        """Whether all layers have room to stay, beside all that steps of one token keep."""
        kept = sum(layer.ready_bytes for layer in self._footprint(plan, self._shortest).layers)
        whole = plan.with_residency([Residency.RESIDENT] * len(plan.layers))
        return footprint.peak_bytes(whole) + kept <= self._parts.budget_bytes()

    def _footprint(self, plan: Plan, sequence: int, extra_bytes: int = 0) -> Footprint:
        footprint = self._parts.footprint(plan, sequence, 1)
        held = self._head.working_bytes + self._head.kept_bytes + self._cached_bytes + extra_bytes
        return replace(
            footprint,
            fixed_bytes=footprint.fixed_bytes + held,
            activation_bytes=causal_activation_bytes(self._geometry, plan.slices, sequence),
        )

    @property
    def _shortest(self) -> int:
        return min(self._description.sequences)

    def _longest(self, plan: Plan) -> int:
        """The longest bucket whose pass fits the budget."""
        least, budget = _streamed(plan, in_flight=1), self._parts.budget_bytes()
        fitting = (
            length
            for length in reversed(self._description.sequences)
            if self._footprint(plan, length).peak_bytes(least) <= budget
        )
        return next(fitting, self._shortest)

    def trim(self) -> None:
        """Free blocks of the head that stay; the next text keeps what then fits."""
        self._parts.ledger.add(-self._head.kept_bytes)
        self._head.keep(8, 0)

    def close(self) -> None:
        """Free the head."""
        self._parts.ledger.add(-self._head.working_bytes - self._head.kept_bytes)
        self._head.close()


def _stays(plan: Plan) -> bool:
    return all(layer.residency is Residency.RESIDENT for layer in plan.layers)


def _least(plan: Plan) -> Plan:
    """In as little memory as it can do with."""
    residency = [layer.residency or Residency.STREAMED for layer in plan.layers]
    return replace(plan.with_residency(residency), layers_in_flight=1, loading_agents=1)


def _streamed(plan: Plan, in_flight: int) -> Plan:
    plan = plan.with_residency([Residency.STREAMED] * len(plan.layers))
    return replace(plan, layers_in_flight=in_flight, loading_agents=min(plan.loading_agents, in_flight))


def _passes(segments: Sequence[Segment], limit: int) -> Iterator[list[tuple[int, Segment]]]:
    """Pieces of at most `limit` tokens together, with the number of their segment: long texts go alone, in chunks."""
    waiting: list[tuple[int, Segment]] = []
    for number, segment in enumerate(segments):
        ids = segment.ids
        while len(ids) > limit:
            yield [(number, Segment(ids[:limit], segment.cache))]
            ids = ids[limit:]
        if waiting and sum(len(piece.ids) for _, piece in waiting) + len(ids) > limit:
            yield waiting
            waiting = []
        waiting.append((number, replace(segment, ids=ids)))
    yield waiting

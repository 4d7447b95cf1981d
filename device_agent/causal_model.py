"""A decoder over the pipeline: caches, prefill in chunks, steps that several texts share, and logits.

Every pass goes over the same shards; its sequence bucket only says how many tokens it takes (`CausalPasses`). What fits
stays in memory: first the layers for steps of one token, from the bottom up, then blocks of the vocabulary's head.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from device_agent.causal_activations import CausalActivations, Segment
from device_agent.causal_passes import CausalPasses, Drafting, streamed
from device_agent.key_values import KeyValueCache, cache_bytes
from device_agent.litert import Runtime
from device_agent.loading import LayerSource
from device_agent.memory import MIB, Footprint, Ledger, fit_residency
from device_agent.norm import apply_norm
from device_agent.phases import PhaseTimes
from device_agent.pipeline import Pipeline
from device_agent.plan import Plan
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


class CausalModel:
    """Not thread-safe: the engine serialises."""

    def __init__(self, parts: Parts, encoder: PromptEncoder) -> None:
        self._parts, self._encoder = parts, encoder
        self._description = parts.source.store.manifest.description
        self._geometry = self._description.geometry
        self._frequencies = parts.source.resident_tensors.get("rotary.frequency")
        self._head = VocabularyReader(parts.source.store, parts.reader)
        self._cached_bytes = 0
        self.passes = CausalPasses(
            self._description, self._head.vocabulary, parts.footprint, parts.budget_bytes, self._held_bytes
        )
        parts.ledger.add(self._head.working_bytes)

    @property
    def max_tokens(self) -> int:
        """The longest text, prompt and answer together."""
        return self._description.max_tokens

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._head.vocabulary

    @property
    def head(self) -> VocabularyReader:
        """From hidden states to logits."""
        return self._head

    def room_bytes(self, capacity: int) -> int:
        """What the budget leaves to passes beside the texts under way and one more of `capacity` tokens.

        The new text's cache is that of the whole model; of a smaller one it takes less.
        """
        layers, slices = self._geometry.layers, self._geometry.slices
        new_bytes = cache_bytes(self._geometry, layers, slices, min(capacity, self.max_tokens))
        return self._parts.budget_bytes() - self._cached_bytes - new_bytes

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
            self._parts.pipeline.make_room(self.passes.job(plan, 1))
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

    def _held_bytes(self) -> int:
        return self._head.working_bytes + self._head.kept_bytes + self._cached_bytes

    def _admit(self, plan: Plan, capacity: int, nbytes: int) -> None:
        footprint = self.passes.footprint(plan, self.passes.shortest, extra_bytes=nbytes - self._head.kept_bytes)
        least = streamed(plan, in_flight=1)
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
        without = self.passes.footprint(plan, self.passes.shortest, extra_bytes=-before)
        peak = without.peak_bytes(fit_residency(plan, without, budget))
        longest = self.passes.footprint(plan, max(self._description.sequences), extra_bytes=-before)
        peak = max(peak, longest.peak_bytes(streamed(plan, plan.layers_in_flight)))
        self._head.keep(bitwidth, max(0, budget - peak))
        self._parts.ledger.add(self._head.kept_bytes - before)

    def advance(
        self, plan: Plan, segments: Sequence[Segment], cancelled: Callable[[], bool], drafting: Drafting | None = None
    ) -> tuple[Floats, PhaseTimes]:
        """Read the segments' tokens into their caches; logits (rows, vocabulary) behind the last token of each.

        A segment with drafts has a row for each of them, too. drafting: what the drafts were allowed by, also where
        this step has none but the next may. Texts share passes as far as their tokens fit a sequence bucket together.
        Raises what the pipeline raises; the caches then stay as they were before the pass that failed.
        """
        times = PhaseTimes()
        limit = self.passes.longest(plan)
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
        job = self.passes.job(plan, sum(counts), drafting)
        self._parts.pipeline.make_room(job)
        with self._parts.ledger.holding(job.footprint.activation_bytes):
            activations = CausalActivations(
                self._parts.runtime,
                self._geometry,
                plan.slices,
                job.sequence,
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

    def trim(self) -> None:
        """Free blocks of the head that stay; the next text keeps what then fits."""
        self._parts.ledger.add(-self._head.kept_bytes)
        self._head.keep(8, 0)

    def close(self) -> None:
        """Free the head."""
        self._parts.ledger.add(-self._head.working_bytes - self._head.kept_bytes)
        self._head.close()


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

"""Timed passes of a decoder: tokens of one text that is remembered already, and what a step takes beside its layers."""

from contextlib import closing
from statistics import median

import numpy as np

from device_agent.causal_activations import CausalActivations, Segment
from device_agent.causal_model import CausalModel, Parts
from device_agent.key_values import KeyValueCache, cache_bytes
from device_agent.norm import apply_norm
from device_agent.phases import Stopwatch
from device_agent.pipeline import Pass
from device_agent.plan import Plan, default_bitwidth, uniform_plan
from device_agent.prompt import PromptEncoder
from device_agent.sampling import Sampler, Sampling
from shard_store.vocabulary_head import head_bitwidth

REMEMBERED_TOKENS = 64  # that a timed token attends over
_REPEATS = 5
_ANSWER_TOKENS = 32


class DecodeStep:
    """What `EngineTrials` needs of a decoder."""

    def __init__(self, model: CausalModel, parts: Parts, encoder: PromptEncoder) -> None:
        self._model, self._parts, self._encoder = model, parts, encoder
        self._geometry = parts.source.geometry

    def fit(self, plan: Plan, sequence: int) -> Pass:
        """A plan as a pass within the budget, beside its cache. Raises BudgetError."""
        nbytes = cache_bytes(self._geometry, len(plan.layers), plan.slices, REMEMBERED_TOKENS + sequence)
        return self._model.passes.fitted(plan, sequence, extra_bytes=nbytes)

    def passenger(self, plan: Plan, sequence: int) -> CausalActivations:
        """So many tokens behind those that are remembered; they mean nothing."""
        cache = KeyValueCache(self._geometry, len(plan.layers), plan.slices, REMEMBERED_TOKENS + sequence)
        cache.rewind(REMEMBERED_TOKENS)
        activations = CausalActivations(
            self._parts.runtime, self._geometry, plan.slices, sequence,
            segments=[Segment(np.zeros(sequence, np.int64), cache)],
            frequencies=self._parts.source.resident_tensors.get("rotary.frequency"),
        )  # fmt: skip
        activations.hidden[:] = 0.0
        return activations

    def overhead_ms(self) -> float:
        """Time of a step of one token outside its layers: its embedding, the last norm, the head as it is streamed.

        And its activations, the choice of the token, and the text of a short answer.
        """
        manifest = self._parts.source.store.manifest
        plan, first, taken = uniform_plan(manifest, default_bitwidth(manifest)), np.zeros(1, np.int64), []
        sampler = Sampler(Sampling())
        for _ in range(_REPEATS):
            watch = Stopwatch(None)
            with closing(self.passenger(plan, min(manifest.description.sequences))) as activations:
                activations.hidden[:1] = self._encoder.embeddings(first, first)
                hidden = apply_norm(
                    activations.hidden[:1], "final_norm", self._parts.source.resident_tensors, self._geometry
                )
            logits = self._model.head.logits(hidden, head_bitwidth(max(plan.bitwidths)))
            token = sampler.choose(logits[0])
            self._encoder.decode([token] * _ANSWER_TOKENS)
            taken.append(watch.elapsed_ms)
        return median(taken)

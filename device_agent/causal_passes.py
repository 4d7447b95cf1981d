"""Which pass the tokens of a decoder take: its sequence bucket, what of it stays in memory, how far it may guess."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from device_agent.causal_activations import causal_activation_bytes
from device_agent.memory import Footprint, fit_residency
from device_agent.pipeline import Pass
from device_agent.plan import Plan, Residency
from shard_store.manifest import ModelDescription


@dataclass(frozen=True, slots=True)
class Drafting:
    """What steps that guess may take. most: drafts in a step, those of all its texts together."""

    sequence: int  # the bucket that holds them
    bare_sequence: int  # that of steps in which no text has a guess
    most: int
    logits_bytes: int  # memory of the drafts' logits
    streams: bool  # whether layers are read in every step


@dataclass(frozen=True, slots=True)
class CausalPasses:
    """Knows the buckets and the budget; `held_bytes` says what the decoder holds beside the layers."""

    description: ModelDescription
    vocabulary: int
    footprint_of: Callable[[Plan, int, int], Footprint]  # of a pass: plan, sequence, texts
    budget_bytes: Callable[[], int]
    held_bytes: Callable[[], int]

    @property
    def shortest(self) -> int:
        """The bucket of one token."""
        return min(self.description.sequences)

    def longest(self, plan: Plan) -> int:
        """The longest bucket whose pass fits the budget."""
        least, budget = streamed(plan, in_flight=1), self.budget_bytes()
        fitting = (
            length
            for length in reversed(self.description.sequences)
            if self.footprint(plan, length).peak_bytes(least) <= budget
        )
        return next(fitting, self.shortest)

    def footprint(self, plan: Plan, sequence: int, extra_bytes: int = 0) -> Footprint:
        """Memory of a pass, with what is held beside it."""
        footprint, geometry = self.footprint_of(plan, sequence, 1), self.description.geometry
        return replace(
            footprint,
            fixed_bytes=footprint.fixed_bytes + self.held_bytes() + extra_bytes,
            activation_bytes=causal_activation_bytes(geometry, plan.slices, sequence),
        )

    def job(self, plan: Plan, tokens: int, drafting: Drafting | None = None) -> Pass:
        """The pass of so many tokens. drafting: what steps that guess were allowed, whether or not this one does.

        Steps of one token keep layers in memory, and so do those that guess; other passes do where there is room for
        both, and else stream. Layers that were loaded ahead, or stay, are of use to a pass of the same bucket only: so
        steps that stream have one bucket, and only where all layers stay, those without a guess take a smaller one.
        """
        if drafting is not None:
            bare = tokens <= drafting.bare_sequence
            return self.fitted(plan, drafting.bare_sequence if bare else drafting.sequence, drafting.logits_bytes)
        sequence = next(length for length in self.description.sequences if length >= tokens)
        if sequence != self.shortest:
            kept_bytes = _ready_bytes(self.footprint(plan, self.shortest))
            if not self._room_for_all(plan, self.footprint(plan, sequence), kept_bytes):
                plan = streamed(plan, plan.layers_in_flight)
        return self.fitted(plan, sequence)

    def drafting(self, plan: Plan, texts: int, most: int) -> Drafting | None:
        """How a step of so many texts can check at most `most` guesses beside; None where it cannot, or would not pay.

        Several texts leave room in their bucket, which costs what it costs. One has a bucket to itself, and the next
        one takes more time to execute: that pays where layers are read meanwhile, and where those of both buckets stay.
        """
        lengths = [length for length in self.description.sequences if length >= texts]
        if not lengths:
            return None
        own = sequence = lengths[0]
        if texts == 1:
            sequence = next((length for length in lengths if length > most), lengths[-1])
        most = min(most, sequence - texts)
        logits_bytes = 4 * self.vocabulary * most
        footprint = self.footprint(plan, sequence, logits_bytes)
        if most < 1 or footprint.peak_bytes(_least(plan)) > self.budget_bytes():
            return None
        streams = not (_may_stay(plan) and self._room_for_all(plan, footprint))
        if own != sequence and _may_stay(plan):
            alone = self.footprint(plan, own)
            if self._room_for_all(plan, alone) and not self._room_for_all(plan, footprint, _ready_bytes(alone)):
                return None  # to read what could stay is worse than not to guess
        return Drafting(sequence, sequence if streams else own, most, logits_bytes, streams)

    def fitted(self, plan: Plan, sequence: int, extra_bytes: int = 0) -> Pass:
        """A plan as a pass beside all that is held, and so many bytes. Raises BudgetError."""
        footprint, budget = self.footprint(plan, sequence, extra_bytes), self.budget_bytes()
        return Pass(fit_residency(plan, footprint, budget), sequence, footprint, budget)

    def _room_for_all(self, plan: Plan, footprint: Footprint, beside_bytes: int = 0) -> bool:
        """Whether every layer could stay, beside layers of another bucket."""
        whole = plan.with_residency([Residency.RESIDENT] * len(plan.layers))
        return footprint.peak_bytes(whole) + beside_bytes <= self.budget_bytes()


def streamed(plan: Plan, in_flight: int) -> Plan:
    """The plan with no layer that stays, and at most so many of them in flight."""
    plan = plan.with_residency([Residency.STREAMED] * len(plan.layers))
    return replace(plan, layers_in_flight=in_flight, loading_agents=min(plan.loading_agents, in_flight))


def _least(plan: Plan) -> Plan:
    """In as little memory as it can do with."""
    residency = [layer.residency or Residency.STREAMED for layer in plan.layers]
    return replace(plan.with_residency(residency), layers_in_flight=1, loading_agents=1)


def _may_stay(plan: Plan) -> bool:
    return all(layer.residency in {None, Residency.RESIDENT} for layer in plan.layers)


def _ready_bytes(footprint: Footprint) -> int:
    return sum(layer.ready_bytes for layer in footprint.layers)

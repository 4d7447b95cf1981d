"""Tokens of several texts on their way through a decoder's layers, in one graph run per layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.attention import attend, turn
from device_agent.key_values import KeyValueCache
from device_agent.litert import CompiledModel, HostTensor, Runtime
from shard_store.geometry import Geometry

Floats = npt.NDArray[np.float32]

_PROJECT, _FINISH = 0, 1  # the graphs of a causal layer


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The next tokens of one text, and what is remembered of it. drafts: how many of them, at the end, are guesses."""

    ids: npt.NDArray[np.int64]  # (tokens,)
    cache: KeyValueCache
    drafts: int = 0

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Of its tokens in the text (tokens,)."""
        return self.cache.length + np.arange(len(self.ids))

    @property
    def is_step(self) -> bool:
        """Whether it is one token, and what is guessed to follow it."""
        return len(self.ids) == 1 + self.drafts

    @property
    def guesses(self) -> npt.NDArray[np.int64]:
        """The drafts (drafts,)."""
        return self.ids[len(self.ids) - self.drafts :]

    @property
    def wanted(self) -> int:
        """Tokens, at the end, behind which the next one is to be chosen."""
        return 1 + self.drafts


def causal_activation_bytes(geometry: Geometry, slices: int, sequence: int) -> int:
    """Memory of `CausalActivations`, with what attention needs beside it."""
    features = slices * (geometry.slice_attention + geometry.slice_kv)
    return 4 * sequence * (2 * geometry.hidden + 4 * features)


class CausalActivations:
    """The hidden states of all segments, one behind the other; rows beyond them are padding and of no effect.

    The graphs treat every token alone, so tokens of different texts share a run; attention goes text by text.
    """

    def __init__(
        self, runtime: Runtime, geometry: Geometry, slices: int, sequence: int, *,
        segments: Sequence[Segment], frequencies: Floats | None,
    ) -> None:  # fmt: skip
        self._width, self._segments, self._frequencies = geometry.head_width, segments, frequencies
        attention, kv = slices * geometry.slice_attention, slices * geometry.slice_kv
        self._states = [HostTensor(runtime, (1, sequence, geometry.hidden)) for _ in range(2)]
        self._query, self._attended = (HostTensor(runtime, (1, sequence, attention)) for _ in range(2))
        self._key, self._value = (HostTensor(runtime, (1, sequence, kv)) for _ in range(2))
        self._layer = 0

    @property
    def hidden(self) -> Floats:
        """The current hidden states (sequence, hidden)."""
        states: Floats = self._states[0].array[0]
        return states

    def through(self, compiled: CompiledModel) -> None:
        """Take all tokens through the next layer."""
        current, following = self._states
        compiled.run((current,), (self._key, self._query, self._value), _PROJECT)
        self._attend()
        compiled.run((self._attended, current), (following,), _FINISH)
        self._states.reverse()
        self._layer += 1

    def _attend(self) -> None:
        start = 0
        for segment in self._segments:
            # a step's tokens attend one by one: in the last bit, too, they get what each would get in a step of its own
            tokens = 1 if segment.is_step else len(segment.ids)
            for behind in range(0, len(segment.ids), tokens):
                self._attend_piece(segment, slice(start + behind, start + behind + tokens), behind)
            start += len(segment.ids)

    def _attend_piece(self, segment: Segment, rows: slice, behind: int) -> None:
        """behind: tokens of the segment that have attended."""
        positions = segment.positions[behind : behind + rows.stop - rows.start]
        query, key, value = (
            tensor.array[0, rows].reshape(len(positions), -1, self._width)
            for tensor in (self._query, self._key, self._value)
        )
        if self._frequencies is not None:
            query, key = (turn(x, positions, self._frequencies) for x in (query, key))
        start = segment.cache.length + behind
        self._attended.array[0, rows] = attend(query, key, value, segment.cache, self._layer, start=start)

    def close(self) -> None:
        """Release the runtime's views."""
        for tensor in (*self._states, self._query, self._attended, self._key, self._value):
            tensor.close()

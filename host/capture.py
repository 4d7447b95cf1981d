"""What each matrix of each layer sees on sample texts: the input of calibrated rounding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from host.calibrate import HessianAccumulator, HessianFactor
from host.checkpoint import Checkpoint
from host.embedder import Embedder, TokenIds, pad
from host.quiet_tensorflow import tf
from host.transformer import MASKED, LayerTensors, LayerTrace, layer_forward
from host.weights import LayerNorm, LayerWeights
from shard_store.errors import CheckpointError
from shard_store.geometry import Geometry

MAX_TEXTS = 512
MAX_TOKENS = 128
_BATCH = 32
_MIN_TEXTS = 8


@dataclass(frozen=True, slots=True)
class LayerHessians:
    """One factor per matrix and slice; matrices that see the same inputs share it."""

    hidden: HessianFactor  # query, key, value: (hidden, hidden)
    normed: HessianFactor  # ffn_up: (hidden, hidden)
    attended: tuple[HessianFactor, ...]  # output, by slice: (slice_attention, slice_attention)
    activated: tuple[HessianFactor, ...]  # ffn_down, by slice: (slice_ffn, slice_ffn)

    def of(self, matrix: str, index: int) -> HessianFactor:
        """The factor for a slice matrix."""
        by_matrix = {"output": self.attended, "ffn_down": self.activated}
        if matrix in by_matrix:
            return by_matrix[matrix][index]
        return self.normed if matrix == "ffn_up" else self.hidden


def read_texts(path: Path) -> list[str]:
    """The first MAX_TEXTS non-empty lines of a file. Raises CheckpointError if there are too few to calibrate on."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"calibration texts {path}: cannot be read: {error}") from error
    texts = [line for line in lines if line][:MAX_TEXTS]
    if len(texts) < _MIN_TEXTS:
        raise CheckpointError(
            f"calibration texts {path}: {len(texts)} lines, give at least {_MIN_TEXTS} typical inputs"
        )
    return texts


class Capture:
    """Carries the sample texts through the float model, one layer at a time."""

    def __init__(self, checkpoint: Checkpoint, geometry: Geometry, texts: Sequence[str]) -> None:
        self._geometry = geometry
        self._batches = list(_embed(checkpoint, texts))

    def advance(self, weights: LayerWeights) -> LayerHessians:
        """Run the next layer over all texts and sum up what its matrices saw."""
        geometry, tensors = self._geometry, layer_tensors(weights)
        hidden, normed = HessianAccumulator(geometry.hidden), HessianAccumulator(geometry.hidden)
        attended = [HessianAccumulator(geometry.slice_attention) for _ in range(geometry.slices)]
        activated = [HessianAccumulator(geometry.slice_ffn) for _ in range(geometry.slices)]
        for number, batch in enumerate(self._batches):
            trace = batch.run(tensors, geometry)
            hidden.add(batch.tokens(batch.hidden))
            normed.add(batch.tokens(trace.normed))
            for sums, values in ((attended, trace.attended), (activated, trace.activated)):
                for one, part in zip(sums, np.split(batch.tokens(values), geometry.slices, axis=1), strict=True):
                    one.add(part)
            self._batches[number] = _Batch(np.asarray(trace.hidden), batch.real)
        return LayerHessians(
            hidden.factor(), normed.factor(),
            tuple(one.factor() for one in attended), tuple(one.factor() for one in activated),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Batch:
    hidden: npt.NDArray[np.float32]  # (texts, seq, hidden)
    real: npt.NDArray[np.bool_]  # (texts, seq): a token, not padding

    def run(self, weights: LayerTensors, geometry: Geometry) -> LayerTrace:
        mask = np.where(self.real, np.float32(0), np.float32(MASKED))[:, None, None, :]
        return layer_forward(
            tf.constant(self.hidden), tf.constant(mask), weights,
            head_width=geometry.head_width, activation=geometry.activation, norm_eps=geometry.norm_eps,
        )  # fmt: skip

    def tokens(self, values: object) -> npt.NDArray[np.float32]:
        """Rows of real tokens: (tokens, features)."""
        return np.asarray(values)[self.real]


def layer_tensors(weights: LayerWeights) -> LayerTensors:
    """Canonical weights in the form that the TensorFlow layer takes."""
    values = {}
    for field in fields(weights):
        part = getattr(weights, field.name)
        if isinstance(part, LayerNorm):
            values.update({f"{field.name}_gamma": part.gamma, f"{field.name}_beta": part.beta})
        elif part is not None:
            values.update({field.name: part.weight, f"{field.name}_bias": part.bias})
    return LayerTensors(**values)


def _embed(checkpoint: Checkpoint, texts: Sequence[str]) -> Iterator[_Batch]:
    tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer_json)
    tokenizer.enable_truncation(min(MAX_TOKENS, checkpoint.max_tokens))
    encodings = sorted(tokenizer.encode_batch(list(texts)), key=lambda encoding: len(encoding.ids))
    embedder = Embedder.of(checkpoint)
    for start in range(0, len(encodings), _BATCH):
        group = encodings[start : start + _BATCH]
        tokens = pad([TokenIds.of(encoding) for encoding in group])
        yield _Batch(embedder.embed(tokens), tokens.real)

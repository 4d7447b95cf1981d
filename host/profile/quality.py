"""What two sets of outputs have in common: the loss of quality, and the task metric.

The loss is a mean over texts, 0 for equal outputs, and about quadratic in the difference of small ones:

- classification with one label: the Kullback-Leibler divergence from the reference's probabilities;
- several labels: the same, of each label's probability, added up; tokens, and what follows a token in a language model:
  the same, the mean over a text's tokens that are judged;
- embeddings: 1 - cosine, half the squared distance of the normalised vectors;
- regression: half the squared difference in units of the reference's standard deviation over the texts, which is the
  divergence of two normal distributions of that width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard_store.head import Head, HeadKind, Scores

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Outputs = Sequence[Floats]  # by batch: (inputs, outputs), or (texts, tokens, outputs) of an answer for each token
_TINY = 1e-12
_PROJECTIONS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """Judges outputs against reference outputs."""

    head: Head
    reference: Outputs
    real: Sequence[npt.NDArray[np.bool_]]  # by batch: which outputs count (texts, tokens)
    labels: npt.NDArray[np.int64]  # (texts,)

    def loss(self, outputs: Outputs) -> float:
        """The mean over all texts."""
        text_losses = self._over_texts(_LOSSES[self.kind], outputs)
        return max(float(text_losses.mean()), 0.0)

    def changes(self, outputs: Outputs) -> Floats:
        """The difference to the reference as vectors (texts, n) whose half squared lengths have the loss as mean.

        So to second order; of many outputs, a few random projections that keep the lengths on average.
        """
        rng = np.random.default_rng(0)
        parts = []
        for ours, theirs, real in zip(outputs, self.reference, self.real, strict=True):
            root = _ROOTS[self.kind](ours.astype(np.float64), theirs.astype(np.float64), self.spread)
            if root.ndim == 3:
                root = root * np.sqrt(real / real.sum(1, keepdims=True))[..., None]
            parts.append(_project(root.reshape(len(root), -1), rng))
        return np.concatenate(parts).astype(np.float32)

    def metric(self, outputs: Outputs) -> float:
        """The task metric: accuracy where there are labels for it, else a likeness to the reference, 1 at best."""
        if metric_name(self.head) == "accuracy":
            return float((np.concatenate(list(outputs)).argmax(-1) == self.labels).mean())
        if metric_name(self.head) == "correlation":
            return _correlation(np.concatenate(list(outputs)).reshape(-1), np.concatenate(self.reference).reshape(-1))
        if metric_name(self.head) == "cosine":
            return float(np.clip(self._over_texts(_cosine, outputs).mean(), -1.0, 1.0))
        agree = _same_class if self.head.scores is Scores.SOFTMAX else _same_labels
        return float(self._over_texts(agree, outputs).mean())

    @property
    def kind(self) -> str:
        """Which loss applies: "embedding", or a value of Scores."""
        return "embedding" if self.head.kind is HeadKind.EMBEDDING else self.head.scores.value

    @property
    def spread(self) -> float:
        """In what outputs are counted: of a regression, the reference's standard deviation."""
        if self.kind != Scores.NONE.value:
            return 1.0
        return max(float(np.concatenate([values.reshape(-1) for values in self.reference]).std()), _TINY)

    def _over_texts(self, judge: Callable[[Doubles, Doubles], Doubles], outputs: Outputs) -> Doubles:
        """One number for each text; of tokens, the mean over those that are not padding."""
        spread = self.spread
        results = []
        for ours, theirs, real in zip(outputs, self.reference, self.real, strict=True):
            values = judge(ours.astype(np.float64) / spread, theirs.astype(np.float64) / spread)
            if values.ndim == 2:
                values = (values * real).sum(1) / real.sum(1)
            results.append(values)
        return np.concatenate(results)


def metric_name(head: Head) -> str:
    """Of the task, for the profile; all but accuracy compare with the reference."""
    if head.kind is HeadKind.EMBEDDING:
        return "cosine"
    if head.scores is Scores.NONE:
        return "correlation"
    if head.kind in (HeadKind.TOKEN_CLASSIFICATION, HeadKind.LANGUAGE_MODEL) or head.scores is Scores.SIGMOID:
        return "agreement"
    return "accuracy"


def log_softmax(logits: Doubles) -> Doubles:
    """Logarithms of probabilities along the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _divergence(ours: Doubles, theirs: Doubles) -> Doubles:
    expected, found = log_softmax(theirs), log_softmax(ours)
    return np.asarray((np.exp(expected) * (expected - found)).sum(-1))


def _divergence_of_labels(ours: Doubles, theirs: Doubles) -> Doubles:
    pairs = [np.stack([logits, np.zeros_like(logits)], -1) for logits in (ours, theirs)]  # a softmax of two each
    return np.asarray(_divergence(*pairs).sum(-1))


def _cosine(ours: Doubles, theirs: Doubles) -> Doubles:
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return np.asarray((ours * theirs).sum(-1) / np.maximum(lengths, _TINY))


def _distance(ours: Doubles, theirs: Doubles) -> Doubles:
    return np.asarray(0.5 * ((ours - theirs) ** 2).sum(-1))


def _same_class(ours: Doubles, theirs: Doubles) -> Doubles:
    return np.asarray(ours.argmax(-1) == theirs.argmax(-1), np.float64)


def _same_labels(ours: Doubles, theirs: Doubles) -> Doubles:
    return np.asarray(((ours > 0) == (theirs > 0)).mean(-1, dtype=np.float64))


def _correlation(ours: Floats, theirs: Floats) -> float:
    if ours.std() < _TINY or theirs.std() < _TINY:
        return float(np.allclose(ours, theirs))
    return float(np.clip(np.corrcoef(ours, theirs)[0, 1], -1.0, 1.0))


_LOSSES: dict[str, Callable[[Doubles, Doubles], Doubles]] = {
    "embedding": lambda ours, theirs: 1.0 - _cosine(ours, theirs),
    Scores.SOFTMAX.value: _divergence,
    Scores.SIGMOID.value: _divergence_of_labels,
    Scores.NONE.value: _distance,
}


def _project(vectors: Doubles, rng: np.random.Generator) -> Doubles:
    width = vectors.shape[1]
    if width <= _PROJECTIONS:
        return np.pad(vectors, ((0, 0), (0, _PROJECTIONS - width))) if width > 2 else vectors
    signs = rng.integers(0, 2, (width, _PROJECTIONS)) * 2.0 - 1.0
    return np.asarray(vectors @ signs / np.sqrt(_PROJECTIONS))


def _root_divergence(ours: Doubles, theirs: Doubles, _spread: float) -> Doubles:
    expected = np.exp(log_softmax(theirs))
    change = ours - theirs
    return np.asarray(np.sqrt(expected) * (change - (expected * change).sum(-1, keepdims=True)))


def _root_of_labels(ours: Doubles, theirs: Doubles, _spread: float) -> Doubles:
    expected = 1.0 / (1.0 + np.exp(-theirs))
    return np.asarray(np.sqrt(expected * (1.0 - expected)) * (ours - theirs))


def _unit(vectors: Doubles) -> Doubles:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY))


_ROOTS: dict[str, Callable[[Doubles, Doubles, float], Doubles]] = {
    "embedding": lambda ours, theirs, _: _unit(ours) - _unit(theirs),
    Scores.SOFTMAX.value: _root_divergence,
    Scores.SIGMOID.value: _root_of_labels,
    Scores.NONE.value: lambda ours, theirs, spread: (ours - theirs) / spread,
}

"""What a training step minimises: labels for a whole model, the whole model's answers for its submodels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from host.adapt.batches import Batch
from host.adapt.model import ElasticClassifier
from host.adapt.options import LayerChoice
from host.quiet_tensorflow import tf
from host.transformer import Tensor

_TEACHER_SHARE = 0.7  # of the loss; the rest is the labels'


@dataclass(frozen=True, slots=True)
class StepGradients:
    """What one batch says."""

    loss: float
    accuracy: float  # of the widest and deepest model, 0 to 1
    gradients: Sequence[Tensor]  # in the order of the model's variables


class Objective(Protocol):
    """Gradients of a loss."""

    def gradients(self, step: int, batch: Batch) -> StepGradients:
        """Of one batch; step decides what is random."""
        ...


class WholeModel:
    """Fine-tuning: cross-entropy of the whole model."""

    def __init__(self, model: ElasticClassifier) -> None:
        whole = tuple(range(model.geometry.layers))
        self._function = _gradient_function(model, model.geometry.slices, (whole,), teacher_share=0.0)

    def gradients(self, step: int, batch: Batch) -> StepGradients:
        """Of one batch."""
        del step
        target = tf.one_hot(batch.labels, self._function.labels)
        loss, accuracy, *gradients = self._function.call(batch, target)
        return StepGradients(float(loss), float(accuracy), gradients)


class Submodels:
    """Elastic training (DynaBERT, Hou et al. 2020; sandwich rule, Yu and Huang 2019).

    Every step trains the full width, a small one and one of the others, each at all depths at once: a depth's layers
    are computed by the deeper one anyway. Deeper submodels weigh more. The teacher is the whole model before adapting.
    """

    def __init__(
        self, model: ElasticClassifier, teacher: ElasticClassifier, choices: Sequence[LayerChoice], *,
        small: int, seed: int,
    ) -> None:  # fmt: skip
        self._model, self._choices, self._seed = model, choices, seed
        self._small, self._full = small, model.geometry.slices
        self._teach = _answer_function(teacher)
        self._functions: dict[int, _GradientFunction] = {}  # by width; tracing takes seconds, so on first use

    def gradients(self, step: int, batch: Batch) -> StepGradients:
        """Summed over the widths of this step."""
        target = tf.nn.softmax(self._teach(batch))
        results = [self._function(slices).call(batch, target) for slices in self.widths(step)]
        summed = [tf.add_n(parts) for parts in zip(*(gradients for _, _, *gradients in results), strict=True)]
        return StepGradients(float(np.mean([loss for loss, *_ in results])), float(results[0][1]), summed)

    def widths(self, step: int) -> tuple[int, ...]:
        """The full width first."""
        others = [slices for slices in range(1, self._full) if slices != self._small]
        generator = np.random.default_rng((self._seed, step))
        other = (int(generator.choice(others)),) if others else ()
        return tuple(dict.fromkeys((self._full, *other, self._small)))

    def _function(self, slices: int) -> "_GradientFunction":
        if slices not in self._functions:
            self._functions[slices] = _gradient_function(self._model, slices, self._choices, _TEACHER_SHARE)
        return self._functions[slices]


@dataclass(frozen=True, slots=True)
class _GradientFunction:
    labels: int
    traced: Callable[..., Sequence[Tensor]]

    def call(self, batch: Batch, target: Tensor) -> Sequence[Tensor]:
        """The loss, the accuracy of the deepest submodel, and the gradients. target: probabilities (texts, labels)."""
        return self.traced(batch.hidden, batch.mask, batch.real, batch.labels, target)


def _gradient_function(
    model: ElasticClassifier, slices: int, choices: Sequence[LayerChoice], teacher_share: float
) -> _GradientFunction:
    variables = list(model.variables.values())
    labels = int(variables[-1].shape[0])
    weights = [len(choice) / sum(map(len, choices)) for choice in choices]

    def gradients(hidden: Tensor, mask: Tensor, real: Tensor, truth: Tensor, target: Tensor) -> Sequence[Tensor]:
        with tf.GradientTape() as tape:
            answers = model.logits(Batch(hidden, mask, real, truth), slices, choices)
            losses = [_loss(logits, truth, target, teacher_share) for logits in answers]
            loss = tf.add_n([weight * one for weight, one in zip(weights, losses, strict=True)])
        right = tf.equal(tf.argmax(answers[-1], -1, tf.int32), truth)
        return (loss, tf.reduce_mean(tf.cast(right, tf.float32)), *tape.gradient(loss, variables))

    spec, features = tf.TensorSpec, model.geometry.hidden
    signature = (
        spec((None, None, features)), spec((None, 1, 1, None)), spec((None, None)), spec((None,), tf.int32),
        spec((None, labels)),
    )  # fmt: skip
    return _GradientFunction(labels, tf.function(gradients, input_signature=signature))


def _loss(logits: Tensor, truth: Tensor, target: Tensor, teacher_share: float) -> Tensor:
    by_label = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits))
    if not teacher_share:
        return by_label
    surprise = tf.reduce_sum(target * (tf.math.log(target + 1e-9) - tf.nn.log_softmax(logits)), -1)
    return teacher_share * tf.reduce_mean(surprise) + (1 - teacher_share) * by_label


def _answer_function(model: ElasticClassifier) -> Callable[[Batch], Tensor]:
    whole = tuple(range(model.geometry.layers))
    spec, features = tf.TensorSpec, model.geometry.hidden
    signature = (spec((None, None, features)), spec((None, 1, 1, None)), spec((None, None)), spec((None,), tf.int32))

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def answer(hidden: Tensor, mask: Tensor, real: Tensor, truth: Tensor) -> Tensor:
        return model.logits(Batch(hidden, mask, real, truth), model.geometry.slices, (whole,))[0]

    return lambda batch: answer(batch.hidden, batch.mask, batch.real, batch.labels)

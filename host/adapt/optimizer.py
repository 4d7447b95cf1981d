"""AdamW with warm-up and linear decay, whose state can be read and put back."""

from collections.abc import Mapping, Sequence

import numpy as np

from host.quiet_tensorflow import tf
from host.transformer import Tensor
from host.weights import Float32Array

_BETA1, _BETA2, _EPSILON = 0.9, 0.98, 1e-6
_WEIGHT_DECAY = 0.01  # of matrices only
_CLIP_NORM = 1.0
_WARM_UP = 0.06  # of all steps


class AdamW:
    """Loshchilov and Hutter 2019; the gradient's norm is clipped to 1."""

    def __init__(self, variables: Mapping[str, Tensor], steps: int, learning_rate: float) -> None:
        self._variables = list(variables.values())
        self._means = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in variables.items()}
        self._squares = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in variables.items()}
        self._steps = steps
        self._peak = learning_rate
        self._update = tf.function(self._apply)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The running means, by name."""
        means = {f"mean.{name}": variable for name, variable in self._means.items()}
        return means | {f"square.{name}": variable for name, variable in self._squares.items()}

    def step(self, number: int, gradients: Sequence[Tensor]) -> None:
        """Change the variables. number counts from 0."""
        rate = self.learning_rate(number)
        powers = (_BETA1 ** (number + 1), _BETA2 ** (number + 1))
        self._update(gradients, *(tf.constant(value, tf.float32) for value in (rate, *powers)))

    def learning_rate(self, number: int) -> float:
        """Up to the peak in the first 6 % of the steps, then down to almost nothing."""
        warm_up = max(1, round(self._steps * _WARM_UP))
        left = (self._steps - number) / max(1, self._steps - warm_up)
        return self._peak * min((number + 1) / warm_up, left)

    def _apply(self, gradients: Sequence[Tensor], rate: Tensor, power1: Tensor, power2: Tensor) -> None:
        clipped, _ = tf.clip_by_global_norm(gradients, _CLIP_NORM)
        parts = zip(self._variables, self._means.values(), self._squares.values(), clipped, strict=True)
        for variable, mean, square, gradient in parts:
            if len(variable.shape) > 1:
                variable.assign_sub(rate * _WEIGHT_DECAY * variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=mean.handle, v=square.handle, beta1_power=power1, beta2_power=power2,
                lr=rate, beta1=_BETA1, beta2=_BETA2, epsilon=_EPSILON, grad=gradient,
            )  # fmt: skip


def assign(variables: Mapping[str, Tensor], values: Mapping[str, Float32Array]) -> None:
    """Put values back into variables of the same names."""
    for name, variable in variables.items():
        variable.assign(np.asarray(values[name], np.float32))

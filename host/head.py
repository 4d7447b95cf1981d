"""What turns the last hidden states into an answer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from host.encoder_config import ProblemType
from shard_store.head import HeadActivation, HeadKind, Pooling


@dataclass(frozen=True, slots=True)
class HeadDense:
    """One dense layer of a head: activation(x @ weight.T + bias)."""

    weight: npt.NDArray[np.float32]  # (out, in)
    bias: npt.NDArray[np.float32]  # (out,)
    activation: HeadActivation


@dataclass(frozen=True, slots=True)
class Head:
    """Pool (unless pooling is None: every token is answered), apply the dense layers in order, then normalize."""

    kind: HeadKind
    pooling: Pooling | None
    normalize: bool
    labels: tuple[str, ...]
    problem_type: ProblemType | None
    dense: tuple[HeadDense, ...]


LANGUAGE_MODEL = Head(HeadKind.LANGUAGE_MODEL, None, False, (), None, ())

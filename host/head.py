"""What turns the last hidden states into an answer."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from host.encoder_config import ProblemType


class HeadKind(str, Enum):
    """The task of a checkpoint."""

    EMBEDDING = "embedding"
    SEQUENCE_CLASSIFICATION = "sequence_classification"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105


class Pooling(str, Enum):
    """How the tokens of a text become one vector."""

    CLS = "cls"  # the first token
    MEAN = "mean"  # of the tokens that are not padding


class HeadActivation(str, Enum):
    """The non-linearity after a dense layer of the head."""

    LINEAR = "linear"
    TANH = "tanh"
    RELU = "relu"


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

"""What turns the last hidden states into an answer, as the manifest describes it."""

from dataclasses import dataclass
from enum import Enum

from shard_store.errors import FormatError
from shard_store.json_fields import JsonFields, text

MAX_LABELS = 4096
MAX_HEAD_LAYERS = 8
RESIDENT_NAME = "[a-z0-9_.]+"


class HeadKind(str, Enum):
    """The task of a model."""

    EMBEDDING = "embedding"
    SEQUENCE_CLASSIFICATION = "sequence_classification"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105 - not a password
    LANGUAGE_MODEL = "language_model"  # the next token; its matrix is head.bin


class Pooling(str, Enum):
    """How the tokens of a text become one vector."""

    CLS = "cls"  # the first token
    MEAN = "mean"  # of the tokens that are not padding


class HeadActivation(str, Enum):
    """The non-linearity behind a dense layer of the head."""

    NONE = "none"
    TANH = "tanh"
    RELU = "relu"


class Scores(str, Enum):
    """What the outputs of a classification mean."""

    SOFTMAX = "softmax"  # one label holds: probabilities that add up to 1
    SIGMOID = "sigmoid"  # any number of labels hold: a probability for each
    NONE = "none"  # a regression: the output itself


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """activation(x @ weight.T + bias); weight (out, in) and bias (out,) name resident tensors."""

    weight: str
    bias: str
    activation: HeadActivation


@dataclass(frozen=True, slots=True)
class Head:
    """Pools (token classification does not: every token is answered), applies the layers in order, then normalizes.

    labels: one for each output of the last layer; empty for embeddings and language models.
    """

    kind: HeadKind
    pooling: Pooling
    normalize: bool
    labels: tuple[str, ...]
    layers: tuple[HeadLayer, ...]
    scores: Scores = Scores.SOFTMAX

    def __post_init__(self) -> None:
        if (self.kind in (HeadKind.EMBEDDING, HeadKind.LANGUAGE_MODEL)) == bool(self.labels):
            raise FormatError(f"head: {self.kind.value} with {len(self.labels)} labels")
        if self.labels and not self.layers:
            raise FormatError(f"head: {self.kind.value} needs at least one dense layer")
        if self.layers and self.kind is HeadKind.LANGUAGE_MODEL:
            raise FormatError("head: a language model has no dense layers")


def parse_head(fields: JsonFields) -> Head:
    """The head from its JSON object."""
    labels = fields.array("labels", MAX_LABELS)
    return Head(
        kind=fields.choice("kind", HeadKind),
        pooling=fields.choice("pooling", Pooling),
        normalize=fields.boolean("normalize"),
        labels=tuple(text(label, f"{fields.where}.labels", ".*") for label in labels),
        layers=fields.objects("layers", MAX_HEAD_LAYERS, _parse_layer),
        scores=fields.choice("scores", Scores),
    )


def _parse_layer(fields: JsonFields) -> HeadLayer:
    return HeadLayer(
        weight=fields.text("weight", RESIDENT_NAME),
        bias=fields.text("bias", RESIDENT_NAME),
        activation=fields.choice("activation", HeadActivation),
    )

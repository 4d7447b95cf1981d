"""The config.json of an encoder, under one set of names for all families."""

from enum import Enum
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter

from host.json_file import read_json
from shard_store.geometry import Activation, Geometry

# transformers' names; gelu_fast is the tanh form written differently
ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


class ProblemType(str, Enum):
    """What the logits of a classifier mean."""

    REGRESSION = "regression"
    SINGLE_LABEL = "single_label_classification"
    MULTI_LABEL = "multi_label_classification"


class _ModelType(BaseModel):
    """The one key that every config.json has; what else it must have depends on it."""

    model_config = ConfigDict(protected_namespaces=())

    model_type: str


class EncoderConfig(BaseModel):
    """Sizes and options; defaults are those of transformers for keys that its config.json may leave out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    architectures: tuple[str, ...] = Field(min_length=1)
    layers: PositiveInt = Field(validation_alias=AliasChoices("num_hidden_layers", "n_layers"))
    hidden: PositiveInt = Field(validation_alias=AliasChoices("hidden_size", "dim"))
    heads: PositiveInt = Field(validation_alias=AliasChoices("num_attention_heads", "n_heads"))
    ffn: PositiveInt = Field(validation_alias=AliasChoices("intermediate_size", "hidden_dim"))
    hidden_act: str = Field(validation_alias=AliasChoices("hidden_act", "activation"))
    layer_norm_eps: float = 1e-12
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    type_vocab_size: PositiveInt = 2
    pad_token_id: int | None = None
    id2label: dict[int, str] | None = None
    num_labels: PositiveInt = 2
    problem_type: ProblemType | None = None
    classifier_pooling: Literal["cls", "mean"] = "cls"

    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False
    quantization_config: object = None

    @property
    def activation(self) -> Activation:
        """The FFN's non-linearity."""
        return ACTIVATIONS[self.hidden_act]

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""
        if self.id2label is None:
            return tuple(f"LABEL_{index}" for index in range(self.num_labels))
        return tuple(self.id2label[index] for index in range(len(self.id2label)))

    def geometry(self, slices: int) -> Geometry:
        """The body cut in that many slices per layer.

        Raises:
            FormatError: a size is out of range, or does not divide evenly.
        """
        return Geometry(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            ffn=self.ffn,
            slices=slices,
            activation=self.activation,
            norm_eps=self.layer_norm_eps,
        )

    def unsupported(self) -> str | None:
        """The first option that would make the outputs silently wrong, as 'key is value, must be ...'; None if none."""
        if self.position_embedding_type != "absolute":
            return f"position_embedding_type is {self.position_embedding_type!r}, must be 'absolute'"
        if self.is_decoder or self.add_cross_attention:
            return "is_decoder or add_cross_attention is true, must be false (an encoder)"
        if self.hidden_act not in ACTIVATIONS:
            return f"hidden_act is {self.hidden_act!r}, must be one of {', '.join(ACTIVATIONS)}"
        if self.quantization_config is not None:
            return "quantization_config is set, must be absent (float weights)"
        if self.id2label is not None and sorted(self.id2label) != list(range(len(self.id2label))):
            return f"id2label has the ids {sorted(self.id2label)}, must be 0 to {len(self.id2label) - 1}"
        return None


def read_model_type(folder: Path) -> str:
    """Read config.json's model_type.

    Raises:
        CheckpointError: missing or malformed.
    """
    return read_json(folder / "config.json", TypeAdapter(_ModelType)).model_type

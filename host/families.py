"""How each family of encoders names its tensors, heads and architectures."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from host.encoder_config import EncoderConfig
from shard_store.errors import CheckpointError
from shard_store.head import HeadActivation, HeadKind

FamilyName: TypeAlias = Literal["bert", "distilbert", "roberta"]
Shapes: TypeAlias = dict[str, tuple[int, ...]]

HEAD_KINDS = {
    "Model": HeadKind.EMBEDDING,
    "ForPreTraining": HeadKind.EMBEDDING,
    "ForMaskedLM": HeadKind.EMBEDDING,
    "ForSequenceClassification": HeadKind.SEQUENCE_CLASSIFICATION,
    "ForTokenClassification": HeadKind.TOKEN_CLASSIFICATION,
}
EMBEDDING_NORM = "embeddings.LayerNorm"
WORD_TABLE = "embeddings.word_embeddings.weight"
POSITION_TABLE = "embeddings.position_embeddings.weight"
TOKEN_TYPE_TABLE = "embeddings.token_type_embeddings.weight"  # noqa: S105
# Buffers that hold no weights, a pooler that the head does not use, and the heads of language-model training.
UNUSED = (
    "embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.", "lm_head.",
    "vocab_transform.", "vocab_layer_norm.", "vocab_projector.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Names inside one layer, without '.weight' and '.bias'."""

    path: str
    query: str
    key: str
    value: str
    output: str
    ffn_up: str
    ffn_down: str
    attention_norm: str
    ffn_norm: str

    def of(self, layer: int, part: str) -> str:
        """The full name of one part (a field of this class) of one layer."""
        return f"{self.path.format(layer)}.{getattr(self, part)}"


@dataclass(frozen=True, slots=True)
class DenseName:
    """One dense layer of a head, without '.weight' and '.bias'."""

    name: str
    activation: HeadActivation


@dataclass(frozen=True, slots=True)
class Family:
    """One tensor layout, with the model types that share it."""

    name: FamilyName
    prefix: str
    model_types: tuple[str, ...]
    class_stems: tuple[str, ...]
    layer: LayerNames
    has_token_types: bool
    positions_after_padding: bool
    sequence_head: tuple[DenseName, ...]

    def head_kind(self, architecture: str) -> HeadKind:
        """The task of a transformers class.

        Raises:
            CheckpointError: not a class of this family, or a task that is not supported.
        """
        kinds = {stem + suffix: kind for stem in self.class_stems for suffix, kind in HEAD_KINDS.items()}
        if architecture not in kinds:
            known = ", ".join(kinds)
            raise CheckpointError(f"config.json: {architecture!r} is not supported for {self.name}; known: {known}")
        return kinds[architecture]

    def head_names(self, kind: HeadKind) -> tuple[DenseName, ...]:
        """The dense layers of a head, in order."""
        if kind is HeadKind.SEQUENCE_CLASSIFICATION:
            return self.sequence_head
        if kind is HeadKind.TOKEN_CLASSIFICATION:
            return (DenseName("classifier", HeadActivation.NONE),)
        return ()

    def shapes(self, config: EncoderConfig, kind: HeadKind) -> Shapes:
        """The shape of every tensor that a checkpoint must have, by its name without the family's prefix."""
        hidden, ffn = config.hidden, config.ffn
        shapes: Shapes = {
            WORD_TABLE: (config.vocab_size, hidden),
            POSITION_TABLE: (config.max_position_embeddings, hidden),
            f"{EMBEDDING_NORM}.weight": (hidden,),
            f"{EMBEDDING_NORM}.bias": (hidden,),
        }
        if self.has_token_types:
            shapes[TOKEN_TYPE_TABLE] = (config.type_vocab_size, hidden)
        for index in range(config.layers):
            for part in ("query", "key", "value", "output"):
                shapes |= _linear(self.layer.of(index, part), hidden, hidden)
            shapes |= _linear(self.layer.of(index, "ffn_up"), ffn, hidden)
            shapes |= _linear(self.layer.of(index, "ffn_down"), hidden, ffn)
            for part in ("attention_norm", "ffn_norm"):
                name = self.layer.of(index, part)
                shapes |= {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}
        dense = self.head_names(kind)
        for entry in dense:
            shapes |= _linear(entry.name, len(config.labels) if entry is dense[-1] else hidden, hidden)
        return shapes


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


_BERT_LAYER = LayerNames(
    path="encoder.layer.{}",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    ffn_up="intermediate.dense",
    ffn_down="output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_norm="output.LayerNorm",
)
BERT = Family(
    name="bert",
    prefix="bert.",
    model_types=("bert",),
    class_stems=("Bert",),
    layer=_BERT_LAYER,
    has_token_types=True,
    positions_after_padding=False,
    sequence_head=(
        DenseName("pooler.dense", HeadActivation.TANH),
        DenseName("classifier", HeadActivation.NONE),
    ),
)
DISTILBERT = Family(
    name="distilbert",
    prefix="distilbert.",
    model_types=("distilbert",),
    class_stems=("DistilBert",),
    layer=LayerNames(
        path="transformer.layer.{}",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        ffn_up="ffn.lin1",
        ffn_down="ffn.lin2",
        attention_norm="sa_layer_norm",
        ffn_norm="output_layer_norm",
    ),
    has_token_types=False,
    positions_after_padding=False,
    sequence_head=(
        DenseName("pre_classifier", HeadActivation.RELU),
        DenseName("classifier", HeadActivation.NONE),
    ),
)
ROBERTA = Family(
    name="roberta",
    prefix="roberta.",
    model_types=("roberta", "xlm-roberta", "camembert"),
    class_stems=("Roberta", "XLMRoberta", "Camembert"),
    layer=_BERT_LAYER,
    has_token_types=True,
    positions_after_padding=True,
    sequence_head=(
        DenseName("classifier.dense", HeadActivation.TANH),
        DenseName("classifier.out_proj", HeadActivation.NONE),
    ),
)
FAMILIES = (BERT, DISTILBERT, ROBERTA)


def find_family(model_type: str) -> Family:
    """The family of a config.json's model_type.

    Raises:
        CheckpointError: unknown.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(model_type for family in FAMILIES for model_type in family.model_types)
    raise CheckpointError(f"config.json: model_type {model_type!r} is not supported; known: {known}")

"""A Hugging Face encoder directory, read lazily into canonical weights."""

from dataclasses import dataclass
from pathlib import Path

from host.encoder_config import EncoderConfig, ProblemType, read_model_type
from host.families import (
    EMBEDDING_NORM,
    POSITION_TABLE,
    TOKEN_TYPE_TABLE,
    UNUSED,
    WORD_TABLE,
    Family,
    FamilyName,
    find_family,
)
from host.head import Head, HeadDense
from host.hub import locate
from host.model_config import read_model_config
from host.sentence_pooling import SentencePooling, read_sentence_pooling
from host.tokenizer_file import read_max_tokens, read_tokenizer
from host.weight_files import WeightFiles, open_weights
from host.weights import Float32Array, LayerNorm, LayerWeights, Linear, TableArray, Tables, smallest_table
from shard_store.errors import CheckpointError
from shard_store.geometry import Geometry
from shard_store.head import HeadKind, Pooling


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked model directory; layers and tables are read from disk when asked for, and not kept."""

    folder: Path
    config: EncoderConfig
    layout: Family
    files: WeightFiles
    head: Head
    tokenizer_json: bytes
    position_offset: int  # the row of the position table for the first token
    max_tokens: int  # the longest text, special tokens included

    image = None
    generation = None

    @property
    def family(self) -> FamilyName:
        """The tensor layout; MiniLM is bert, XLM-RoBERTa and CamemBERT are roberta."""
        return self.layout.name

    def geometry(self, slices: int | None = None) -> Geometry:
        """The body cut in that many slices per layer; as many as heads by default.

        Raises:
            FormatError: heads or FFN neurons do not divide evenly among the slices.
        """
        return self.config.geometry(self.config.heads if slices is None else slices)

    def layer(self, index: int) -> LayerWeights:
        """Read one layer.

        Raises:
            CheckpointError: there is no such layer, or a value is not finite.
        """
        if not 0 <= index < self.config.layers:
            raise CheckpointError(f"{self.folder}: layer {index} does not exist, must be 0 to {self.config.layers - 1}")
        names = self.layout.layer
        return LayerWeights(
            query=self._linear(names.of(index, "query")),
            key=self._linear(names.of(index, "key")),
            value=self._linear(names.of(index, "value")),
            output=self._linear(names.of(index, "output")),
            ffn_up=self._linear(names.of(index, "ffn_up")),
            ffn_down=self._linear(names.of(index, "ffn_down")),
            attention_norm=self._norm(names.of(index, "attention_norm")),
            ffn_norm=self._norm(names.of(index, "ffn_norm")),
        )

    def tables(self) -> Tables:
        """Read the embedding tables; the position table keeps its rows before position_offset.

        Raises:
            CheckpointError: a value is not finite.
        """
        token_type = self._table(TOKEN_TYPE_TABLE) if self.layout.has_token_types else None
        return Tables(self._table(WORD_TABLE), self._table(POSITION_TABLE), token_type)

    def row_tables(self) -> dict[str, TableArray]:
        """Read the embedding tables, by name. Raises CheckpointError as `tables` does."""
        tables = self.tables()
        named = {"word": tables.word, "position": tables.position}
        return named if tables.token_type is None else {**named, "token_type": tables.token_type}

    def tensors(self) -> dict[str, Float32Array]:
        """Read what stays in memory beside layers and head, by name. Raises CheckpointError as that does."""
        norm = self.embedding_norm()
        return {"embedding_norm.gamma": norm.gamma, "embedding_norm.beta": norm.beta}

    def vocabulary_head(self) -> None:
        """An encoder predicts no vocabulary."""

    def embedding_norm(self) -> LayerNorm:
        """Read the LayerNorm after the sum of the embeddings.

        Raises:
            CheckpointError: a value is not finite.
        """
        return self._norm(EMBEDDING_NORM)

    def _linear(self, name: str) -> Linear:
        return Linear(self.files.read(f"{name}.weight"), self.files.read(f"{name}.bias"))

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.files.read(f"{name}.weight"), self.files.read(f"{name}.bias"))

    def _table(self, name: str) -> TableArray:
        return smallest_table(self.files.read(name))


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Open a local model directory, or fetch one from the Hugging Face hub, and check everything but the values.

    Raises:
        CheckpointError: missing, incomplete, malformed, or not supported.
    """
    folder = locate(source)
    family = find_family(read_model_type(folder))
    config = read_model_config(folder, EncoderConfig)
    kind = family.head_kind(config.architectures[0])
    offset = _position_offset(config, family)
    files = open_weights(folder, family.prefix)
    files.check(family.shapes(config, kind), UNUSED)
    sentence = read_sentence_pooling(folder) if kind is HeadKind.EMBEDDING else SentencePooling()
    return Checkpoint(
        folder=folder,
        config=config,
        layout=family,
        files=files,
        head=_read_head(kind, config, family, files, sentence),
        tokenizer_json=read_tokenizer(folder, config.vocab_size),
        position_offset=offset,
        max_tokens=_max_tokens(folder, config.max_position_embeddings - offset, sentence),
    )


def _read_head(
    kind: HeadKind, config: EncoderConfig, family: Family, files: WeightFiles, sentence: SentencePooling
) -> Head:
    dense = tuple(
        HeadDense(files.read(f"{entry.name}.weight"), files.read(f"{entry.name}.bias"), entry.activation)
        for entry in family.head_names(kind)
    )
    if kind is HeadKind.EMBEDDING:
        return Head(kind, sentence.pooling, sentence.normalize, (), None, dense)
    if kind is HeadKind.TOKEN_CLASSIFICATION:
        return Head(kind, None, False, config.labels, ProblemType.SINGLE_LABEL, dense)
    # transformers decides alike when config.json leaves it open
    default = ProblemType.REGRESSION if len(config.labels) == 1 else ProblemType.SINGLE_LABEL
    pooling = Pooling(config.classifier_pooling)
    return Head(kind, pooling, False, config.labels, config.problem_type or default, dense)


def _position_offset(config: EncoderConfig, family: Family) -> int:
    """RoBERTa counts positions from the padding id + 1 on; an absent padding id is its default, 1."""
    if not family.positions_after_padding:
        return 0
    padding = 1 if config.pad_token_id is None else config.pad_token_id
    if not 0 <= padding < config.max_position_embeddings - 1:
        highest = config.max_position_embeddings - 2
        raise CheckpointError(f"config.json: pad_token_id is {padding}, must be 0 to {highest}")
    return padding + 1


def _max_tokens(folder: Path, positions: int, sentence: SentencePooling) -> int:
    limits = (positions, read_max_tokens(folder), sentence.max_tokens)
    return min(limit for limit in limits if limit is not None and limit >= 1)

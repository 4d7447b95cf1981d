"""Writes a trained classifier as a Hugging Face directory: aside, checked, then renamed."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from host.adapt.model import ClassifierWeights
from host.adapt.options import LayerChoice
from host.adapt.saved_state import sync
from host.checkpoint import Checkpoint, load_checkpoint
from host.families import EMBEDDING_NORM, POSITION_TABLE, TOKEN_TYPE_TABLE, WORD_TABLE, LayerNames
from host.weights import LayerNorm, Linear
from shard_store.errors import TrainingError
from shard_store.head import HeadKind, Pooling

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model",
)  # fmt: skip
_TYPE_KEYS = ("dtype", "torch_dtype")  # of config.json: newer and older releases of transformers

Arrays = dict[str, npt.NDArray[Any]]


def check_absent(out: Path) -> None:
    """Refuse to write over anything. Raises TrainingError."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TrainingError(f"{out} exists; choose another directory or remove it")


def write_classifier(
    checkpoint: Checkpoint, weights: ClassifierWeights, out: Path, *, labels: tuple[str, ...], pooling: Pooling,
    elastic_layers: tuple[LayerChoice, ...] | None = None,
) -> None:  # fmt: skip
    """The checkpoint with these weights instead of its own, and a head for the labels; the embeddings stay.

    elastic_layers: the layers of each depth, where they are not the first ones.
    """
    check_absent(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    config = _config(checkpoint, labels, pooling, elastic_layers)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    save_file(_tensors(checkpoint, weights), partial / "model.safetensors", {"format": "pt"})
    for name in _TOKENIZER_FILES:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, partial / name)
    # safetensors keeps its files to their owner
    (partial / "model.safetensors").chmod((partial / "config.json").stat().st_mode)
    load_checkpoint(partial)
    for path in partial.iterdir():
        sync(path)
    sync(partial)
    partial.replace(out)
    sync(out.parent)


def _config(
    checkpoint: Checkpoint, labels: tuple[str, ...], pooling: Pooling, elastic_layers: tuple[LayerChoice, ...] | None
) -> Mapping[str, object]:
    config: dict[str, object] = json.loads((checkpoint.folder / "config.json").read_text("utf-8"))
    config.pop("elastic_layers", None)
    config |= {
        "architectures": [classifier_architecture(checkpoint)],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        "classifier_pooling": pooling.value,
    }
    config |= {key: "float32" for key in _TYPE_KEYS if key in config}
    return config | ({"elastic_layers": elastic_layers} if elastic_layers else {})


def classifier_architecture(checkpoint: Checkpoint) -> str:
    """transformers' class for this checkpoint's body with a sequence classifier."""
    own = checkpoint.config.architectures[0]
    stems = sorted(checkpoint.layout.class_stems, key=len, reverse=True)
    return next(stem for stem in stems if own.startswith(stem)) + "ForSequenceClassification"


def _tensors(checkpoint: Checkpoint, weights: ClassifierWeights) -> Arrays:
    """Every tensor by the name that transformers gives it."""
    tables, layout = checkpoint.tables(), checkpoint.layout
    tensors: Arrays = {WORD_TABLE: tables.word, POSITION_TABLE: tables.position}
    if tables.token_type is not None:
        tensors[TOKEN_TYPE_TABLE] = tables.token_type
    tensors |= _named(EMBEDDING_NORM, checkpoint.embedding_norm())
    for index, layer in enumerate(weights.layers):
        for part in fields(LayerNames)[1:]:  # after the path: the parts
            tensors |= _named(layout.layer.of(index, part.name), getattr(layer, part.name))
    head: Arrays = {}
    for entry, (weight, bias) in zip(layout.head_names(HeadKind.SEQUENCE_CLASSIFICATION), weights.head, strict=True):
        # BERT's pooler belongs to the body, the classifiers behind it do not.
        (tensors if entry.name.startswith("pooler.") else head).update(_named(entry.name, Linear(weight, bias)))
    body = {layout.prefix + name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return body | {name: np.ascontiguousarray(value) for name, value in head.items()}


def _named(name: str, part: Linear | LayerNorm) -> Arrays:
    if isinstance(part, Linear):
        return {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
    return {f"{name}.weight": part.gamma, f"{name}.bias": part.beta}

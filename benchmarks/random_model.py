"""A Hugging Face directory with random weights in any encoder geometry, for measurements of time and memory."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of a BERT encoder."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int = 1000
    positions: int = 512


BERT_BASE = EncoderShape(layers=12, hidden=768, heads=12, ffn=3072)


def write_random_bert(folder: Path, shape: EncoderShape, seed: int = 0) -> None:
    """Write config.json, model.safetensors and tokenizer.json; words are w4, w5, ... up to the vocabulary's size."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(shape)))
    save_file(_weights(shape, np.random.default_rng(seed)), folder / "model.safetensors")
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *(f"w{i}" for i in range(4, shape.vocabulary))))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def sentence(tokens: int) -> str:
    """A text of exactly `tokens` tokens, [CLS] and [SEP] included."""
    return " ".join(f"w{4 + number % 500}" for number in range(tokens - 2))


def _config(shape: EncoderShape) -> dict[str, object]:
    return {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn, "vocab_size": shape.vocabulary, "max_position_embeddings": shape.positions,
        "type_vocab_size": 2,
    }  # fmt: skip


def _weights(shape: EncoderShape, random: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    hidden, ffn = shape.hidden, shape.ffn

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.03)

    def norm(name: str) -> dict[str, npt.NDArray[np.float32]]:
        return {f"{name}.weight": np.ones(hidden, np.float32), f"{name}.bias": np.zeros(hidden, np.float32)}

    def linear(name: str, rows: int, columns: int) -> dict[str, npt.NDArray[np.float32]]:
        return {f"{name}.weight": matrix(rows, columns), f"{name}.bias": matrix(1, rows)[0]}

    tensors = {
        "embeddings.word_embeddings.weight": matrix(shape.vocabulary, hidden),
        "embeddings.position_embeddings.weight": matrix(shape.positions, hidden),
        "embeddings.token_type_embeddings.weight": matrix(2, hidden),
        **norm("embeddings.LayerNorm"),
    }
    for layer in range(shape.layers):
        prefix = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            tensors |= linear(f"{prefix}.attention.self.{name}", hidden, hidden)
        tensors |= linear(f"{prefix}.attention.output.dense", hidden, hidden)
        tensors |= linear(f"{prefix}.intermediate.dense", ffn, hidden) | linear(f"{prefix}.output.dense", hidden, ffn)
        tensors |= norm(f"{prefix}.attention.output.LayerNorm") | norm(f"{prefix}.output.LayerNorm")
    return tensors

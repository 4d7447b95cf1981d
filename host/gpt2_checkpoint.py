"""A Hugging Face directory of GPT-2 (Radford et al. 2019), read lazily into canonical weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from host.decoder_options import TokenIds, read_generation
from host.encoder_config import ACTIVATIONS
from host.head import LANGUAGE_MODEL, Head
from host.model_config import read_model_config
from host.tokenizer_file import read_max_tokens, read_tokenizer
from host.weight_files import WeightFiles, open_weights
from host.weights import Float32Array, LayerNorm, LayerWeights, Linear, TableArray, smallest_table
from shard_store.generation import Generation
from shard_store.geometry import Geometry
from shard_store.layer_spec import LayerSpec, NormPosition
from shard_store.template import MAX_SEQUENCE

ARCHITECTURES = ("GPT2LMHeadModel",)


class Gpt2Config(BaseModel):
    """Sizes and options; defaults are those of transformers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    architectures: tuple[str, ...] = Field(min_length=1)
    n_layer: PositiveInt = 12
    n_embd: PositiveInt = 768
    n_head: PositiveInt = 12
    n_inner: PositiveInt | None = None
    n_positions: PositiveInt = 1024
    vocab_size: PositiveInt = 50257
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    eos_token_id: TokenIds = None
    quantization_config: object = None

    @property
    def ffn(self) -> int:
        """FFN neurons."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def geometry(self, slices: int) -> Geometry:
        """The body cut in that many slices per layer. Raises FormatError for sizes that do not divide evenly."""
        return Geometry(
            self.n_layer, self.n_embd, self.n_head, self.ffn, slices,
            ACTIVATIONS[self.activation_function], self.layer_norm_epsilon,
            LayerSpec(NormPosition.BEFORE, causal=True),
        )  # fmt: skip

    def unsupported(self) -> str | None:
        """The first option that would make the outputs silently wrong; None if none."""
        if self.architectures[0] not in ARCHITECTURES:
            return f"{self.architectures[0]!r} is not supported for gpt2; known: {', '.join(ARCHITECTURES)}"
        if self.activation_function not in ACTIVATIONS:
            return f"activation_function is {self.activation_function!r}, must be one of {', '.join(ACTIVATIONS)}"
        if not self.scale_attn_weights or self.scale_attn_by_inverse_layer_idx:
            return "scale_attn_weights must be true and scale_attn_by_inverse_layer_idx false"
        if self.add_cross_attention:
            return "add_cross_attention is true, must be false"
        if self.quantization_config is not None:
            return "quantization_config is set, must be absent (float weights)"
        return None


@dataclass(frozen=True, slots=True)
class Gpt2Checkpoint:
    """A checked model directory; layers and tables are read from disk when asked for, and not kept."""

    folder: Path
    config: Gpt2Config
    files: WeightFiles
    tokenizer_json: bytes
    max_tokens: int  # prompt and answer together
    generation: Generation

    family = "gpt2"
    image = None
    position_offset = 0

    @property
    def head(self) -> Head:
        """The vocabulary; its matrix is apart."""
        return LANGUAGE_MODEL

    def geometry(self, slices: int | None = None) -> Geometry:
        """The body cut in that many slices per layer; as many as heads by default."""
        return self.config.geometry(self.config.n_head if slices is None else slices)

    def layer(self, index: int) -> LayerWeights:
        """Read one layer; its matrices are stored as [in, out], queries, keys and values in one."""
        path = f"h.{index}"
        joined = self._linear(f"{path}.attn.c_attn")
        query, key, value = (
            Linear(np.ascontiguousarray(weight), bias)
            for weight, bias in zip(np.split(joined.weight, 3), np.split(joined.bias, 3), strict=True)
        )
        return LayerWeights(
            query, key, value,
            output=self._linear(f"{path}.attn.c_proj"),
            ffn_up=self._linear(f"{path}.mlp.c_fc"),
            ffn_down=self._linear(f"{path}.mlp.c_proj"),
            attention_norm=self._norm(f"{path}.ln_1"),
            ffn_norm=self._norm(f"{path}.ln_2"),
        )  # fmt: skip

    def row_tables(self) -> dict[str, TableArray]:
        """Words and positions."""
        names = {"word": "wte.weight", "position": "wpe.weight"}
        return {table: smallest_table(self.files.read(name)) for table, name in names.items()}

    def tensors(self) -> dict[str, Float32Array]:
        """The norm behind the last layer."""
        norm = self._norm("ln_f")
        return {"final_norm.gamma": norm.gamma, "final_norm.beta": norm.beta}

    def vocabulary_head(self) -> Float32Array:
        """The matrix (vocabulary, hidden): the word embeddings, unless it has weights of its own."""
        return self.files.read("wte.weight" if self.config.tie_word_embeddings else "lm_head.weight")

    def _linear(self, name: str) -> Linear:
        return Linear(np.ascontiguousarray(self.files.read(f"{name}.weight").T), self.files.read(f"{name}.bias"))

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.files.read(f"{name}.weight"), self.files.read(f"{name}.bias"))


def load_gpt2(folder: Path) -> Gpt2Checkpoint:
    """Open a model directory and check everything but the values. Raises CheckpointError."""
    config = read_model_config(folder, Gpt2Config)
    files = open_weights(folder, "transformer.")
    buffers = (f"h.{layer}.attn.{name}" for layer in range(config.n_layer) for name in ("bias", "masked_bias"))
    files.check(_shapes(config), (*buffers, "lm_head."))
    return Gpt2Checkpoint(
        folder, config, files, read_tokenizer(folder, config.vocab_size),
        min(config.n_positions, read_max_tokens(folder) or MAX_SEQUENCE, MAX_SEQUENCE),
        read_generation(folder, config.eos_token_id),
    )  # fmt: skip


def _shapes(config: Gpt2Config) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that must be there."""
    hidden, ffn = config.n_embd, config.ffn
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocab_size, hidden),
        "wpe.weight": (config.n_positions, hidden),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    norms = ["ln_f"]
    for layer in range(config.n_layer):
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
        for name, columns, rows in (
            ("attn.c_attn", hidden, 3 * hidden), ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, ffn), ("mlp.c_proj", ffn, hidden),
        ):  # fmt: skip
            shapes |= {f"h.{layer}.{name}.weight": (columns, rows), f"h.{layer}.{name}.bias": (rows,)}
    return shapes | {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}

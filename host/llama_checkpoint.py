"""A Hugging Face directory of a Llama-style decoder (Touvron et al. 2023; Qwen2), read into canonical weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from host.decoder_options import read_generation
from host.head import LANGUAGE_MODEL, Head
from host.llama_config import LlamaConfig
from host.model_config import read_model_config
from host.tokenizer_file import read_max_tokens, read_tokenizer
from host.weight_files import WeightFiles, open_weights
from host.weights import Float32Array, LayerNorm, LayerWeights, Linear, TableArray, smallest_table
from shard_store.generation import Generation
from shard_store.geometry import Geometry
from shard_store.template import MAX_SEQUENCE

_LINEAR = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class LlamaCheckpoint:
    """A checked model directory; layers and tables are read from disk when asked for, and not kept."""

    folder: Path
    config: LlamaConfig
    files: WeightFiles
    tokenizer_json: bytes
    max_tokens: int  # prompt and answer together
    generation: Generation

    image = None
    position_offset = 0

    @property
    def family(self) -> str:
        """llama or qwen2."""
        return self.config.model_type

    @property
    def head(self) -> Head:
        """The vocabulary; its matrix is apart."""
        return LANGUAGE_MODEL

    def geometry(self, slices: int | None = None) -> Geometry:
        """The body cut in that many slices per layer; as many as KV heads by default."""
        return self.config.geometry(self.config.kv_heads if slices is None else slices)

    def layer(self, index: int) -> LayerWeights:
        """Read one layer. Raises CheckpointError if a value is not finite."""
        path = f"layers.{index}"
        attention_norm, ffn_norm = (self._norm(f"{path}.{name}") for name in _NORMS)
        linear = {part: self._linear(f"{path}.{name}") for part, name in _LINEAR.items()}
        return LayerWeights(attention_norm=attention_norm, ffn_norm=ffn_norm, **linear)

    def row_tables(self) -> dict[str, TableArray]:
        """Words; positions have no table."""
        return {"word": smallest_table(self.files.read("embed_tokens.weight"))}

    def tensors(self) -> dict[str, Float32Array]:
        """The norm behind the last layer, and the angles of the rotary positions."""
        return {"final_norm.gamma": self.files.read("norm.weight"), "rotary.frequency": self.config.frequencies()}

    def vocabulary_head(self) -> Float32Array:
        """The matrix (vocabulary, hidden): the word embeddings, unless it has weights of its own."""
        return self.files.read("embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight")

    def _linear(self, name: str) -> Linear:
        weight, bias = self.files.read(f"{name}.weight"), f"{name}.bias"
        return Linear(
            weight, self.files.read(bias) if bias in self.files.tensors else np.zeros(len(weight), np.float32)
        )

    def _norm(self, name: str) -> LayerNorm:
        gamma = self.files.read(f"{name}.weight")
        return LayerNorm(gamma, np.zeros_like(gamma))


def load_llama(folder: Path) -> LlamaCheckpoint:
    """Open a model directory and check everything but the values. Raises CheckpointError."""
    config = read_model_config(folder, LlamaConfig)
    files = open_weights(folder, "model.")
    buffers = (f"layers.{layer}.self_attn.rotary_emb." for layer in range(config.num_hidden_layers))
    files.check(_shapes(config), (*buffers, *(("lm_head.",) if config.tie_word_embeddings else ())))
    return LlamaCheckpoint(
        folder, config, files, read_tokenizer(folder, config.vocab_size),
        min(config.max_position_embeddings, read_max_tokens(folder) or MAX_SEQUENCE, MAX_SEQUENCE),
        read_generation(folder, config.eos_token_id),
    )  # fmt: skip


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that must be there."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    attention, kv = config.num_attention_heads * config.head_width, config.kv_heads * config.head_width
    sizes = {
        "query": (attention, hidden), "key": (kv, hidden), "value": (kv, hidden), "output": (hidden, attention),
        "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, hidden), "norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        shapes |= {f"layers.{layer}.{name}.weight": (hidden,) for name in _NORMS}
        for part, name in _LINEAR.items():
            shapes[f"layers.{layer}.{name}.weight"] = sizes[part]
            if part in config.biased:
                shapes[f"layers.{layer}.{name}.bias"] = sizes[part][:1]
    return shapes

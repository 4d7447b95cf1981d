"""The config.json of Llama-style decoders, and the angles of their rotary positions."""

import math
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from host.decoder_options import TokenIds
from host.encoder_config import ACTIVATIONS
from host.weights import Float32Array
from shard_store.geometry import Activation, Geometry
from shard_store.layer_spec import LayerSpec, NormKind, NormPosition, Positions

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_ACTIVATIONS = {**ACTIVATIONS, "silu": Activation.SILU, "swish": Activation.SILU}


class _Rope(BaseModel):
    """How positions turn queries and keys; "llama3" stretches slow angles (Dubey et al. 2024, section 3.4)."""

    model_config = ConfigDict(extra="ignore")

    rope_type: Literal["default", "linear", "llama3"] = "default"
    rope_theta: PositiveFloat | None = None
    factor: PositiveFloat = 1.0
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    original_max_position_embeddings: PositiveInt = 8192


class LlamaConfig(BaseModel):
    """Sizes and options; defaults are those of transformers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_type: Literal["llama", "qwen2"]
    architectures: tuple[str, ...] = Field(min_length=1)
    num_hidden_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    intermediate_size: PositiveInt
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    rope_theta: PositiveFloat = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    tie_word_embeddings: bool = False
    eos_token_id: TokenIds = None
    quantization_config: object = None

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def biased(self) -> frozenset[str]:
        """The matrices that have a bias."""
        attention = ("query", "key", "value") if self.attention_bias or self.model_type == "qwen2" else ()
        output = ("output",) if self.attention_bias and self.model_type == "llama" else ()
        return frozenset((*attention, *output, *(("ffn_gate", "ffn_up", "ffn_down") if self.mlp_bias else ())))

    def geometry(self, slices: int) -> Geometry:
        """The body cut in that many slices per layer. Raises FormatError for sizes that do not divide evenly."""
        spec = LayerSpec(
            NormPosition.BEFORE, NormKind.RMS, gated=True, causal=True, positions=Positions.ROTARY,
            kv_heads=self.kv_heads, head_width=self.head_width,
        )  # fmt: skip
        return Geometry(
            self.num_hidden_layers, self.hidden_size, self.num_attention_heads, self.intermediate_size, slices,
            _ACTIVATIONS[self.hidden_act], self.rms_norm_eps, spec,
        )  # fmt: skip

    def unsupported(self) -> str | None:
        """The first option that would make the outputs silently wrong; None if none."""
        known = ARCHITECTURES[self.model_type]
        if self.architectures[0] != known:
            return f"{self.architectures[0]!r} is not supported for {self.model_type}; known: {known}"
        if self.hidden_act not in _ACTIVATIONS:
            return f"hidden_act is {self.hidden_act!r}, must be one of {', '.join(_ACTIVATIONS)}"
        if self.use_sliding_window:
            return "use_sliding_window is true, must be false"
        if self.quantization_config is not None:
            return "quantization_config is set, must be absent (float weights)"
        try:
            self.rope()
        except ValidationError:
            return "rope_scaling or rope_parameters are not supported; known rope_type: default, linear, llama3"
        return None

    def rope(self) -> _Rope:
        """The rotary options, under the names of either generation of transformers."""
        options = {**(self.rope_scaling or {}), **(self.rope_parameters or {})}
        if "type" in options:
            options.setdefault("rope_type", options["type"])
        return _Rope.model_validate(options)

    def frequencies(self) -> Float32Array:
        """Angle per position of each pair of a head's features (head_width / 2,) (Su et al. 2021)."""
        rope = self.rope()
        theta = rope.rope_theta or self.rope_theta
        exponents = np.arange(0, self.head_width, 2, dtype=np.float32) / np.float32(self.head_width)
        frequencies = (1.0 / np.float64(theta) ** exponents).astype(np.float32)
        if rope.rope_type == "linear":
            return frequencies / np.float32(rope.factor)
        return _stretched(frequencies, rope) if rope.rope_type == "llama3" else frequencies


def _stretched(frequencies: Float32Array, rope: _Rope) -> Float32Array:
    """Waves longer than the training context are slowed down by the factor, short ones kept, others in between."""
    turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = np.clip((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0)
    return np.asarray(frequencies * (kept + (1 - kept) / rope.factor), np.float32)

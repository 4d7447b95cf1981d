"""Tiny random decoders as Hugging Face directories, and an independent forward pass of them in plain numpy float64.

The forward pass reads the tensors under transformers' names and follows the papers (GPT-2: Radford et al. 2019; Llama:
Touvron et al. 2023), one token after another without a cache, so that it shares nothing with the code under test.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

Floats = npt.NDArray[np.float64]
Tensors = dict[str, Floats]

VOCABULARY = 97
HIDDEN, LAYERS, HEADS, FFN = 32, 3, 4, 48
WORDS = [f"w{index}" for index in range(VOCABULARY)]

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "intermediate_size": FFN, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
    "tie_word_embeddings": False, "eos_token_id": 1,
}  # fmt: skip
QWEN2 = LLAMA | {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True, "rope_theta": 500.0,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
LLAMA3 = LLAMA | {
    "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS,
    "n_inner": FFN, "n_positions": 40, "vocab_size": VOCABULARY, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "eos_token_id": 1,
}  # fmt: skip
CONFIGS = {"llama": LLAMA, "qwen2": QWEN2, "llama3": LLAMA3, "gpt2": GPT2}


def write_decoder(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json; word w<i> is token i."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    shapes = _gpt2_shapes(config) if config["model_type"] == "gpt2" else _llama_shapes(config)
    save_file({name: _random(random, name, shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{{ eos_token }}"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": None, "eos_token": {"content": "w1"}, "chat_template": template})
    )
    return folder


def _random(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    centre = 1.0 if "norm" in name or ".ln_" in name else 0.0
    centre = 0.0 if name.endswith(".bias") else centre
    return (centre + 0.25 * random.standard_normal(shape)).astype(np.float32)


def _gpt2_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (VOCABULARY, HIDDEN),
        "wpe.weight": (config["n_positions"], HIDDEN),
    }
    for layer in range(LAYERS):
        for name, columns, rows in (
            ("attn.c_attn", HIDDEN, 3 * HIDDEN), ("attn.c_proj", HIDDEN, HIDDEN),
            ("mlp.c_fc", HIDDEN, FFN), ("mlp.c_proj", FFN, HIDDEN),
        ):  # fmt: skip
            shapes |= {f"h.{layer}.{name}.weight": (columns, rows), f"h.{layer}.{name}.bias": (rows,)}
    norms = ["ln_f", *(f"h.{layer}.ln_{number}" for layer in range(LAYERS) for number in (1, 2))]
    shapes |= {f"{norm}.{part}": (HIDDEN,) for norm in norms for part in ("weight", "bias")}
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


def _llama_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width = config.get("head_dim", HIDDEN // HEADS)
    attention, kv = HEADS * width, config["num_key_value_heads"] * width
    qwen = config["model_type"] == "qwen2"
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        path = f"model.layers.{layer}"
        shapes |= {f"{path}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for name, rows, columns in (
            ("self_attn.q_proj", attention, HIDDEN), ("self_attn.k_proj", kv, HIDDEN), ("self_attn.v_proj", kv, HIDDEN),
            ("self_attn.o_proj", HIDDEN, attention), ("mlp.gate_proj", FFN, HIDDEN), ("mlp.up_proj", FFN, HIDDEN),
            ("mlp.down_proj", HIDDEN, FFN),
        ):  # fmt: skip
            shapes[f"{path}.{name}.weight"] = (rows, columns)
            projection = name.endswith(("q_proj", "k_proj", "v_proj"))
            own = config.get("mlp_bias") if name.startswith("mlp") else config.get("attention_bias")
            if own or (qwen and projection):
                shapes[f"{path}.{name}.bias"] = (rows,)
    return shapes


def reference_logits(folder: Path, ids: Sequence[int]) -> Floats:
    """Logits (tokens, vocabulary) of a whole text."""
    config = json.loads((folder / "config.json").read_text())
    tensors = {name: values.astype(np.float64) for name, values in load_file(folder / "model.safetensors").items()}
    run = _run_gpt2 if config["model_type"] == "gpt2" else _run_llama
    return run(config, tensors, np.asarray(ids))


def _run_gpt2(config: dict[str, Any], tensors: Tensors, ids: npt.NDArray[np.integer]) -> Floats:
    def of(name: str) -> Floats:
        return tensors[f"transformer.{name}"]

    def norm(x: Floats, name: str) -> Floats:
        spread = np.sqrt(x.var(-1, keepdims=True) + config["layer_norm_epsilon"])
        return np.asarray((x - x.mean(-1, keepdims=True)) / spread * of(f"{name}.weight") + of(f"{name}.bias"))

    def conv(x: Floats, name: str) -> Floats:
        return x @ of(f"{name}.weight") + of(f"{name}.bias")

    x = of("wte.weight")[ids] + of("wpe.weight")[: len(ids)]
    for layer in range(config["n_layer"]):
        path = f"h.{layer}"
        query, key, value = np.split(conv(norm(x, f"{path}.ln_1"), f"{path}.attn.c_attn"), 3, axis=-1)
        heads = config["n_head"]
        x = x + conv(_attend(*(_heads(part, heads) for part in (query, key, value))), f"{path}.attn.c_proj")
        inner = conv(norm(x, f"{path}.ln_2"), f"{path}.mlp.c_fc")
        inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + conv(inner, f"{path}.mlp.c_proj")
    return np.asarray(norm(x, "ln_f") @ of("wte.weight").T)


def _run_llama(config: dict[str, Any], tensors: Tensors, ids: npt.NDArray[np.integer]) -> Floats:
    def norm(x: Floats, name: str) -> Floats:
        spread = np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"])
        return np.asarray(x / spread * tensors[f"{name}.weight"])

    def linear(x: Floats, name: str) -> Floats:
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    turn = _turner(config, len(ids))
    x = tensors["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        seen = norm(x, f"{path}.input_layernorm")
        query = turn(_heads(linear(seen, f"{path}.self_attn.q_proj"), heads))
        key = turn(_heads(linear(seen, f"{path}.self_attn.k_proj"), kv_heads))
        value = _heads(linear(seen, f"{path}.self_attn.v_proj"), kv_heads)
        key, value = (np.repeat(part, heads // kv_heads, axis=0) for part in (key, value))
        x = x + linear(_attend(query, key, value), f"{path}.self_attn.o_proj")
        seen = norm(x, f"{path}.post_attention_layernorm")
        gate = linear(seen, f"{path}.mlp.gate_proj")
        inner = gate / (1 + np.exp(-gate)) * linear(seen, f"{path}.mlp.up_proj")
        x = x + linear(inner, f"{path}.mlp.down_proj")
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return np.asarray(norm(x, "model.norm") @ tensors[head].T)


def _turner(config: dict[str, Any], tokens: int) -> Callable[[Floats], Floats]:
    """Rotation of each pair (f, f + width / 2) as a complex number."""
    width = config.get("head_dim", HIDDEN // HEADS)
    frequencies = [config["rope_theta"] ** (-2 * pair / width) for pair in range(width // 2)]
    if scaling := config.get("rope_scaling"):
        frequencies = [_llama3(frequency, scaling) for frequency in frequencies]
    turns = np.exp(1j * np.arange(tokens)[:, None] * np.asarray(frequencies))  # (tokens, width / 2)

    def turn(x: Floats) -> Floats:
        turned = (x[..., : width // 2] + 1j * x[..., width // 2 :]) * turns
        return np.concatenate((turned.real, turned.imag), axis=-1)

    return turn


def _llama3(frequency: float, scaling: dict[str, Any]) -> float:
    wavelength, trained = 2 * math.pi / frequency, scaling["original_max_position_embeddings"]
    if wavelength < trained / scaling["high_freq_factor"]:
        return frequency
    if wavelength > trained / scaling["low_freq_factor"]:
        return float(frequency / scaling["factor"])
    smooth = (trained / wavelength - scaling["low_freq_factor"]) / (
        scaling["high_freq_factor"] - scaling["low_freq_factor"]
    )
    return float((1 - smooth) * frequency / scaling["factor"] + smooth * frequency)


def _heads(x: Floats, heads: int) -> Floats:
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _attend(query: Floats, key: Floats, value: Floats) -> Floats:
    """(heads, tokens, width) each -> (tokens, heads * width); no token sees what comes after it."""
    heads, tokens, width = query.shape
    result = np.zeros((tokens, heads, width))
    for head in range(heads):
        for token in range(tokens):
            scores = key[head, : token + 1] @ query[head, token] / math.sqrt(width)
            powers = np.exp(scores - scores.max())
            result[token, head] = powers / powers.sum() @ value[head, : token + 1]
    return result.reshape(tokens, -1)

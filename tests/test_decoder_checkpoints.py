"""Directories of GPT-2, Llama and Qwen2: what is read, and what is refused before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.package import PackageOptions, package
from host.source_model import open_model
from shard_store.errors import CheckpointError
from shard_store.layer_spec import NormKind, Positions
from tests.decoders import CONFIGS, FFN, GPT2, HIDDEN, LLAMA, LLAMA3, QWEN2, VOCABULARY, write_decoder
from tests.model_copies import edit_json


@pytest.mark.parametrize("name", CONFIGS)
def test_every_decoder_is_read(name: str, tmp_path: Path) -> None:
    model = open_model(write_decoder(tmp_path, CONFIGS[name]))
    geometry, weights = model.geometry(), model.layer(2)
    assert geometry.spec.causal
    assert geometry.slices == geometry.kv_heads
    assert weights.query.weight.shape == (geometry.heads * geometry.head_width, HIDDEN)
    assert weights.key.weight.shape == (geometry.kv_heads * geometry.head_width, HIDDEN)
    assert weights.ffn_down.weight.shape == (HIDDEN, FFN)
    assert (weights.ffn_gate is not None) == geometry.spec.gated == (name != "gpt2")
    assert model.generation is not None
    head = model.vocabulary_head()
    assert head is not None
    assert head.shape == (VOCABULARY, HIDDEN)
    assert ("position" in model.row_tables()) == (geometry.spec.positions is Positions.ABSOLUTE)
    assert ("final_norm.beta" in model.tensors()) == (geometry.spec.norm_kind is NormKind.LAYER)


def test_biases_are_zeros_where_a_family_has_none(tmp_path: Path) -> None:
    llama = open_model(write_decoder(tmp_path / "llama", LLAMA)).layer(0)
    qwen2 = open_model(write_decoder(tmp_path / "qwen2", QWEN2)).layer(0)
    assert not llama.query.bias.any()
    assert qwen2.query.bias.any()
    assert not qwen2.output.bias.any()


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (GPT2, {"architectures": ["GPT2Model"]}, "'GPT2Model' is not supported for gpt2; known: GPT2LMHeadModel"),
        (GPT2, {"activation_function": "silu"}, "activation_function is 'silu', must be one of gelu"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx false"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention is true"),
        (GPT2, {"n_head": 5}, "hidden 32 is not a multiple of heads 5"),
        (GPT2, {"tie_word_embeddings": False}, r"tensor lm_head\.weight: expected \[97, 32\], found none"),
        (LLAMA, {"architectures": ["LlamaModel"]}, "'LlamaModel' is not supported for llama; known: LlamaForCausalLM"),
        (LLAMA, {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        (LLAMA, {"use_sliding_window": True}, "use_sliding_window is true, must be false"),
        (LLAMA, {"quantization_config": {}}, "quantization_config is set"),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn"}}, "known rope_type: default, linear, llama3"),
        (LLAMA, {"num_key_value_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        (LLAMA, {"head_dim": 7}, "head_width 7 must be even"),
        (QWEN2, {"num_hidden_layers": 4}, r"tensor layers\.3\..*found none"),
        (QWEN2, {"vocab_size": ...}, "vocab_size: Field required"),
    ],
)
def test_refused_with_the_key_and_the_value(
    config: dict[str, Any], changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    model = write_decoder(tmp_path, config)
    edit_json(model / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rotary_options_of_either_generation(key: str, tmp_path: Path) -> None:
    plain = open_model(write_decoder(tmp_path / "plain", LLAMA)).tensors()["rotary.frequency"]
    linear = LLAMA | {key: {"rope_type": "linear", "factor": 4.0}}
    found = open_model(write_decoder(tmp_path / "linear", linear)).tensors()["rotary.frequency"]
    np.testing.assert_allclose(found, plain / 4)
    assert open_model(write_decoder(tmp_path / "llama3", LLAMA3)).tensors()["rotary.frequency"][0] == plain[0]


def test_generation_config_and_a_template_of_its_own(tmp_path: Path) -> None:
    model = write_decoder(tmp_path, LLAMA)
    (model / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    (model / "chat_template.jinja").write_text("{{ messages }}")
    generation = open_model(model).generation
    assert generation is not None
    assert (generation.end_tokens, generation.chat_template) == ((5, 6), "{{ messages }}")
    (model / "chat_template.jinja").unlink()
    edit_json(model / "tokenizer_config.json", chat_template=[{"name": "default", "template": "x"}])
    generation = open_model(model).generation
    assert generation is not None
    assert generation.chat_template == "x"


def test_calibration_is_refused_for_decoders(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.write_text("a\n" * 20)
    options = PackageOptions(bitwidths=(8,), calibrate=texts)
    with pytest.raises(
        CheckpointError, match=r"--calibrate: not possible for llama, only for text encoders; leave it out"
    ):
        package(str(write_decoder(tmp_path / "model", LLAMA)), tmp_path / "out", options, lambda *_: None)

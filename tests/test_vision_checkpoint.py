"""Directories of vision transformers: what is read, and what is refused before any work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from host.vision_checkpoint import load_vision_checkpoint
from shard_store.errors import CheckpointError
from tests.model_copies import edit_json


@pytest.fixture
def model(shared_models: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "vit"
    shutil.copytree(shared_models / "vit-mnist", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    return folder


def test_a_checkpoint_is_read(model: Path) -> None:
    checkpoint = load_vision_checkpoint(model)
    assert (checkpoint.max_tokens, checkpoint.geometry().slices, checkpoint.image.patches) == (17, 6, 16)
    assert checkpoint.row_tables()["position"].shape == (17, 192)
    assert checkpoint.tensors()["patch.weight"].shape == (192, 3 * 7 * 7)
    assert checkpoint.layer(5).ffn_up.weight.shape == (768, 192)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"architectures": ["ViTModel"]}, "'ViTModel' is not supported for vit; known: ViTForImageCl"),
        ("config.json", {"hidden_act": "silu"}, "hidden_act is 'silu', must be one of"),
        ("config.json", {"patch_size": 5}, "image_size is 28, must be a multiple of patch_size 5"),
        ("config.json", {"num_attention_heads": 5}, "hidden 192 is not a multiple of heads 5"),
        ("config.json", {"quantization_config": {}}, "quantization_config is set"),
        ("config.json", {"id2label": {"1": "a"}}, "id2label has the ids"),
        ("config.json", {"num_hidden_layers": 7}, r"tensor encoder\.layer\.6\..*: expected .*, found none"),
        ("config.json", {"num_hidden_layers": 5}, "expected no such tensor"),
        ("preprocessor_config.json", {"size": 32}, "size is 32 x 32, must be config.json's image_size 28"),
        ("preprocessor_config.json", {"do_center_crop": True}, "images are cropped"),
        ("preprocessor_config.json", {"resample": 9}, "resample is 9, must be 0 to 5"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "mean and std must have 3 values each"),
    ],
)
def test_refused_with_the_key_and_the_value(model: Path, file: str, changes: dict[str, object], message: str) -> None:
    edit_json(model / file, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_vision_checkpoint(model)
    assert "\n" not in str(caught.value)


def test_preprocessing_may_leave_steps_out(model: Path) -> None:
    edit_json(model / "preprocessor_config.json", do_normalize=False, do_rescale=False, do_resize=False)
    image = load_vision_checkpoint(model).image
    assert (image.scale, image.mean, image.std, image.resize) == (1.0, (0.0,) * 3, (1.0,) * 3, False)


def test_projections_without_biases_have_zeros(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    kept = {
        name: values for name, values in tensors.items() if not name.endswith(("query.bias", "key.bias", "value.bias"))
    }
    save_file(kept, model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "qkv_bias": False}))
    np.testing.assert_array_equal(load_vision_checkpoint(model).layer(0).key.bias, np.zeros(192, np.float32))

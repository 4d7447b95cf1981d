"""A tiny random vision transformer as a Hugging Face directory, and data sets of random images."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.images import encoded

HIDDEN, LAYERS, HEADS, FFN, LABELS, SIDE, PATCH = 32, 3, 2, 48, 3, 12, 4
PATCHES = (SIDE // PATCH) ** 2


def write_vision_transformer(folder: Path, seed: int = 0) -> Path:
    """Write config.json, preprocessor_config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": FFN, "image_size": SIDE,
        "patch_size": PATCH, "id2label": {str(index): f"class {index}" for index in range(LABELS)},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": SIDE}))
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in _shapes().items():
        centre = 1.0 if "layernorm" in name and name.endswith("weight") else 0.0
        tensors[name] = (centre + 0.25 * random.standard_normal(shape)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, HIDDEN),
        "vit.embeddings.position_embeddings": (1, PATCHES + 1, HIDDEN),
        "vit.embeddings.patch_embeddings.projection.weight": (HIDDEN, 3, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": (HIDDEN,),
        "classifier.weight": (LABELS, HIDDEN),
        "classifier.bias": (LABELS,),
    }
    norms = ["vit.layernorm"]
    for layer in range(LAYERS):
        path = f"vit.encoder.layer.{layer}"
        norms += [f"{path}.layernorm_before", f"{path}.layernorm_after"]
        attention = {f"attention.attention.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        for name, (rows, columns) in (
            attention
            | {"attention.output.dense": (HIDDEN, HIDDEN), "intermediate.dense": (FFN, HIDDEN)}
            | {"output.dense": (HIDDEN, FFN)}
        ).items():
            shapes |= {f"{path}.{name}.weight": (rows, columns), f"{path}.{name}.bias": (rows,)}
    return shapes | {f"{norm}.{part}": (HIDDEN,) for norm in norms for part in ("weight", "bias")}


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    """That many random images, not of the model's size, as PNG and JPEG, and a file of paths and labels."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    lines = []
    for index in range(count):
        kind = "JPEG" if index % 3 == 0 else "PNG"
        pixels = random.integers(0, 256, (16, 20, 3), np.uint8)
        (folder / "images" / f"{index}.{kind.lower()}").write_bytes(encoded(pixels, kind))
        lines.append(f"images/{index}.{kind.lower()}\t{random.integers(0, LABELS)}")
    data = folder / "images.tsv"
    data.write_text("\n".join(lines) + "\n", "utf-8")
    return data

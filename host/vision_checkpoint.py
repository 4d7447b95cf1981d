"""A Hugging Face directory of a vision transformer (Dosovitskiy et al. 2021), read lazily into canonical weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from host.encoder_config import ProblemType
from host.head import Head, HeadDense
from host.model_config import read_model_config
from host.vision_config import VisionConfig, read_image_input
from host.weight_files import WeightFiles, open_weights
from host.weights import Float32Array, LayerNorm, LayerWeights, Linear, TableArray, smallest_table
from shard_store.errors import CheckpointError
from shard_store.geometry import Geometry
from shard_store.head import HeadActivation, HeadKind, Pooling
from shard_store.image_input import ImageInput

ARCHITECTURES = ("ViTForImageClassification",)
_UNUSED = ("pooler.", "embeddings.mask_token", "embeddings.position_ids")
_PATCH = "embeddings.patch_embeddings.projection"
_LINEAR = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "output": "attention.output.dense",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
}
_NORMS = {"attention_norm": "layernorm_before", "ffn_norm": "layernorm_after"}


@dataclass(frozen=True, slots=True)
class VisionCheckpoint:
    """A checked model directory; layers and tables are read from disk when asked for, and not kept."""

    folder: Path
    config: VisionConfig
    files: WeightFiles
    image: ImageInput
    head: Head

    family = "vit"
    generation = None
    position_offset = 0
    tokenizer_json = b"{}"  # there is no text

    @property
    def max_tokens(self) -> int:
        """The patches and the class token."""
        return self.image.patches + 1

    def geometry(self, slices: int | None = None) -> Geometry:
        """The body cut in that many slices per layer; as many as heads by default."""
        return self.config.geometry(self.config.num_attention_heads if slices is None else slices)

    def layer(self, index: int) -> LayerWeights:
        """Read one layer. Raises CheckpointError if a value is not finite."""
        path = f"encoder.layer.{index}"
        linear = {part: self._linear(f"{path}.{name}") for part, name in _LINEAR.items()}
        attention_norm, ffn_norm = (self._norm(f"{path}.{name}") for name in _NORMS.values())
        return LayerWeights(attention_norm=attention_norm, ffn_norm=ffn_norm, **linear)

    def row_tables(self) -> dict[str, TableArray]:
        """The position table: the class token's row first."""
        return {"position": smallest_table(self.files.read("embeddings.position_embeddings")[0])}

    def tensors(self) -> dict[str, Float32Array]:
        """What stays in memory beside layers and head: the embedding of patches, the class token, the last norm."""
        norm = self._norm("layernorm")
        return {
            "patch.weight": self.files.read(f"{_PATCH}.weight").reshape(self.config.hidden_size, -1),
            "patch.bias": self.files.read(f"{_PATCH}.bias"),
            "cls_token": self.files.read("embeddings.cls_token").reshape(-1),
            "final_norm.gamma": norm.gamma,
            "final_norm.beta": norm.beta,
        }

    def vocabulary_head(self) -> None:
        """There is no vocabulary."""

    def _linear(self, name: str) -> Linear:
        weight = self.files.read(f"{name}.weight")
        bias = f"{name}.bias"
        return Linear(
            weight, self.files.read(bias) if bias in self.files.tensors else np.zeros(len(weight), np.float32)
        )

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.files.read(f"{name}.weight"), self.files.read(f"{name}.bias"))


def load_vision_checkpoint(folder: Path) -> VisionCheckpoint:
    """Open a model directory and check everything but the values. Raises CheckpointError."""
    config = read_model_config(folder, VisionConfig)
    if config.architectures[0] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"config.json: {config.architectures[0]!r} is not supported for vit; known: {known}")
    files = open_weights(folder, "vit.")
    files.check(_shapes(config), _UNUSED)
    dense = HeadDense(files.read("classifier.weight"), files.read("classifier.bias"), HeadActivation.NONE)
    problem = config.problem_type or ProblemType.SINGLE_LABEL
    head = Head(HeadKind.SEQUENCE_CLASSIFICATION, Pooling.CLS, False, config.labels, problem, (dense,))
    return VisionCheckpoint(folder, config, files, read_image_input(folder, config), head)


def _shapes(config: VisionConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that must be there."""
    hidden, ffn, patch = config.hidden_size, config.intermediate_size, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, hidden),
        "embeddings.position_embeddings": (1, config.patches + 1, hidden),
        f"{_PATCH}.weight": (hidden, config.num_channels, patch, patch),
        f"{_PATCH}.bias": (hidden,),
        "classifier.weight": (len(config.labels), hidden),
        "classifier.bias": (len(config.labels),),
    }
    norms = ["layernorm"]
    for layer in range(config.num_hidden_layers):
        norms += [f"encoder.layer.{layer}.{name}" for name in _NORMS.values()]
        for part, name in _LINEAR.items():
            rows, columns = {"ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}.get(part, (hidden, hidden))
            shapes[f"encoder.layer.{layer}.{name}.weight"] = (rows, columns)
            if config.qkv_bias or part not in ("query", "key", "value"):
                shapes[f"encoder.layer.{layer}.{name}.bias"] = (rows,)
    shapes |= {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}
    return shapes

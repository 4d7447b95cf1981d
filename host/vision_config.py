"""config.json and preprocessor_config.json of a vision transformer."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter

from host.encoder_config import ACTIVATIONS, ProblemType
from host.json_file import read_json
from shard_store.errors import CheckpointError, FormatError
from shard_store.geometry import Geometry
from shard_store.image_input import ImageInput, Resampling
from shard_store.layer_spec import LayerSpec, NormPosition

# the numbers of Pillow's filters, as preprocessor_config.json stores them
_RESAMPLING = {
    0: Resampling.NEAREST, 1: Resampling.LANCZOS, 2: Resampling.BILINEAR, 3: Resampling.BICUBIC,
    4: Resampling.BOX, 5: Resampling.HAMMING,
}  # fmt: skip


class VisionConfig(BaseModel):
    """Sizes and options; defaults are those of transformers' ViTConfig."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    architectures: tuple[str, ...] = Field(min_length=1)
    num_hidden_layers: PositiveInt = 12
    hidden_size: PositiveInt = 768
    num_attention_heads: PositiveInt = 12
    intermediate_size: PositiveInt = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    image_size: PositiveInt = 224
    patch_size: PositiveInt = 16
    num_channels: PositiveInt = 3
    qkv_bias: bool = True
    id2label: dict[int, str] | None = None
    num_labels: PositiveInt = 2
    problem_type: ProblemType | None = None
    quantization_config: object = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""
        if self.id2label is None:
            return tuple(f"LABEL_{index}" for index in range(self.num_labels))
        return tuple(self.id2label[index] for index in range(len(self.id2label)))

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    def geometry(self, slices: int) -> Geometry:
        """The body cut in that many slices per layer. Raises FormatError for sizes that do not divide evenly."""
        return Geometry(
            self.num_hidden_layers, self.hidden_size, self.num_attention_heads, self.intermediate_size, slices,
            ACTIVATIONS[self.hidden_act], self.layer_norm_eps, LayerSpec(NormPosition.BEFORE),
        )  # fmt: skip

    def unsupported(self) -> str | None:
        """The first option that would make the outputs silently wrong; None if none."""
        if self.hidden_act not in ACTIVATIONS:
            return f"hidden_act is {self.hidden_act!r}, must be one of {', '.join(ACTIVATIONS)}"
        if self.quantization_config is not None:
            return "quantization_config is set, must be absent (float weights)"
        if self.image_size % self.patch_size:
            return f"image_size is {self.image_size}, must be a multiple of patch_size {self.patch_size}"
        if self.id2label is not None and sorted(self.id2label) != list(range(len(self.id2label))):
            return f"id2label has the ids {sorted(self.id2label)}, must be 0 to {len(self.id2label) - 1}"
        return None


class _Size(BaseModel):
    height: PositiveInt
    width: PositiveInt


Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


class _Preprocessor(BaseModel):
    """preprocessor_config.json; defaults are those of transformers' ViTImageProcessor."""

    model_config = ConfigDict(extra="ignore")

    do_resize: bool = True
    size: _Size | PositiveInt = 224
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Channels = (0.5, 0.5, 0.5)
    image_std: Channels = (0.5, 0.5, 0.5)
    do_center_crop: bool = False
    crop_pct: float | None = None


def read_image_input(folder: Path, config: VisionConfig) -> ImageInput:
    """Read preprocessor_config.json. Raises CheckpointError if it asks for what is not supported."""
    path = folder / "preprocessor_config.json"
    options = read_json(path, TypeAdapter(_Preprocessor))
    side = options.size
    height, width = (side.height, side.width) if isinstance(side, _Size) else (side, side)
    if (height, width) != (config.image_size, config.image_size):
        raise CheckpointError(
            f"{path}: size is {height} x {width}, must be config.json's image_size {config.image_size}"
        )
    if options.do_center_crop or options.crop_pct is not None:
        raise CheckpointError(f"{path}: images are cropped (do_center_crop, crop_pct), which is not supported")
    if options.resample not in _RESAMPLING:
        raise CheckpointError(f"{path}: resample is {options.resample}, must be 0 to {len(_RESAMPLING) - 1}")
    channels = config.num_channels
    plain = ((0.0,) * channels, (1.0,) * channels)
    mean, std = (options.image_mean, options.image_std) if options.do_normalize else plain
    try:
        return ImageInput(
            height, width, config.patch_size, channels, options.do_resize, _RESAMPLING[options.resample],
            options.rescale_factor if options.do_rescale else 1.0, mean, std,
        )  # fmt: skip
    except FormatError as error:
        raise CheckpointError(f"{path}: {error}") from error

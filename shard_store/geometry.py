"""The shape of a sliced model: N layers x M vertical slices (STI, section 4.1)."""

from dataclasses import dataclass, field
from enum import Enum

from shard_store.errors import FormatError
from shard_store.layer_spec import LayerSpec, NormKind, Positions

LATTICE_BITWIDTHS = (2, 3, 4, 5, 6, 8)
EXACT_BITWIDTH = 32
BITWIDTHS = (*LATTICE_BITWIDTHS, EXACT_BITWIDTH)

MAX_LAYERS = 1024
MAX_SLICES = 256
MAX_FEATURES = 1 << 17


class Cut(str, Enum):
    """Along which axis of the layer's matrix a slice is cut."""

    ROWS = "rows"  # the slice owns output rows, with their bias and scales
    COLUMNS = "columns"  # the slice owns input columns; bias and scales belong to the layer


class Activation(str, Enum):
    """The non-linearity between the two FFN matrices."""

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    SILU = "silu"


@dataclass(frozen=True, slots=True)
class SliceMatrix:
    """One weight matrix of one slice: rows x columns, stored as [out, in]."""

    name: str
    cut: Cut
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of the transformer body. KV heads and FFN neurons divide evenly among the slices."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    slices: int
    activation: Activation
    norm_eps: float
    spec: LayerSpec = field(default_factory=LayerSpec)

    def __post_init__(self) -> None:
        for name, limit in (
            ("layers", MAX_LAYERS), ("hidden", MAX_FEATURES), ("heads", MAX_FEATURES),
            ("ffn", MAX_FEATURES), ("slices", MAX_SLICES), ("kv_heads", MAX_FEATURES),
        ):  # fmt: skip
            value = getattr(self, name)
            if not 1 <= value <= limit:
                raise FormatError(f"geometry: {name} is {value}, must be 1 to {limit}")
        if self.spec.head_width is None and self.hidden % self.heads:
            raise FormatError(f"geometry: hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.hidden % 8:
            raise FormatError(f"geometry: hidden {self.hidden} is not a multiple of 8")
        if self.heads % self.kv_heads:
            raise FormatError(f"geometry: heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        for name in ("heads", "kv_heads", "ffn"):
            if getattr(self, name) % self.slices:
                raise FormatError(f"geometry: {name} {getattr(self, name)} is not a multiple of slices {self.slices}")
        if self.spec.positions is Positions.ROTARY and self.head_width % 2:
            raise FormatError(f"geometry: head_width {self.head_width} must be even for rotary positions")
        if self.heads * self.head_width > MAX_FEATURES:
            raise FormatError(f"geometry: {self.heads} heads of {self.head_width} features, at most {MAX_FEATURES}")
        if not 0.0 < self.norm_eps < 1.0:
            raise FormatError(f"geometry: norm_eps is {self.norm_eps}, must be between 0 and 1")

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.hidden // self.heads if self.spec.head_width is None else self.spec.head_width

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.spec.kv_heads is None else self.spec.kv_heads

    @property
    def slice_attention(self) -> int:
        """Attention features of one slice: those of its query heads."""
        return self.heads // self.slices * self.head_width

    @property
    def slice_kv(self) -> int:
        """Features of one slice's keys, and of its values."""
        return self.kv_heads // self.slices * self.head_width

    @property
    def slice_ffn(self) -> int:
        """FFN neurons of one slice."""
        return self.ffn // self.slices

    @property
    def slice_matrices(self) -> tuple[SliceMatrix, ...]:
        """The matrices of one slice, in the order in which they are stored: six, or seven with a gate."""
        attention, kv, ffn, hidden = self.slice_attention, self.slice_kv, self.slice_ffn, self.hidden
        gate = (SliceMatrix("ffn_gate", Cut.ROWS, ffn, hidden),) if self.spec.gated else ()
        return (
            SliceMatrix("query", Cut.ROWS, attention, hidden),
            SliceMatrix("key", Cut.ROWS, kv, hidden),
            SliceMatrix("value", Cut.ROWS, kv, hidden),
            SliceMatrix("output", Cut.COLUMNS, hidden, attention),
            *gate,
            SliceMatrix("ffn_up", Cut.ROWS, ffn, hidden),
            SliceMatrix("ffn_down", Cut.COLUMNS, hidden, ffn),
        )

    @property
    def norm_tensors(self) -> tuple[str, ...]:
        """The parameters of a layer's norms."""
        parts = ("gamma",) if self.spec.norm_kind is NormKind.RMS else ("gamma", "beta")
        return tuple(f"{norm}.{part}" for norm in ("attention_norm", "ffn_norm") for part in parts)

    @property
    def layer_tensors(self) -> tuple[str, ...]:
        """What belongs to a layer as a whole at every bitwidth, float32 (hidden,) each."""
        return ("output.bias", "ffn_down.bias", *self.norm_tensors)


@dataclass(frozen=True, slots=True, order=True)
class ShardKey:
    """Names one shard: one slice of one layer at one bitwidth."""

    layer: int
    slice: int
    bitwidth: int

    def __str__(self) -> str:
        return f"layer {self.layer}, slice {self.slice}, {self.bitwidth} bits"

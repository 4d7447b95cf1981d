"""What kinds of transformer layers there are: one specification for encoders, vision models and decoders."""

from dataclasses import dataclass
from enum import Enum

from shard_store.errors import FormatError

MAX_HEAD_WIDTH = 1024


class NormPosition(str, Enum):
    """Where the two norms of a layer stand."""

    AFTER = "after"  # behind the residual sums (Vaswani et al. 2017; BERT)
    BEFORE = "before"  # in front of attention and FFN (Xiong et al. 2020; ViT, GPT-2, Llama)


class NormKind(str, Enum):
    """How a norm scales its input."""

    LAYER = "layer"  # LayerNorm (Ba et al. 2016): gamma and beta
    RMS = "rms"  # RMSNorm (Zhang and Sennrich 2019): gamma alone, nothing is subtracted


class Positions(str, Enum):
    """How a model knows the order of its tokens."""

    ABSOLUTE = "absolute"  # a table, added to the embeddings
    ROTARY = "rotary"  # queries and keys are turned by their position (Su et al. 2021)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """The shape of a layer beyond its sizes. The defaults are those of BERT.

    gated: activation(gate(x)) * up(x) instead of activation(up(x)) (Shazeer 2020); causal: a token sees itself and
    those before it; kv_heads: heads of keys and values, each shared by a group of query heads (Ainslie et al. 2023),
    None: one for each query head; head_width: None: hidden / heads.
    """

    norm_position: NormPosition = NormPosition.AFTER
    norm_kind: NormKind = NormKind.LAYER
    gated: bool = False
    causal: bool = False
    positions: Positions = Positions.ABSOLUTE
    kv_heads: int | None = None
    head_width: int | None = None

    def __post_init__(self) -> None:
        if self.causal and self.norm_position is NormPosition.AFTER:
            raise FormatError("geometry: causal layers must have their norms before attention and FFN")
        if self.positions is Positions.ROTARY and not self.causal:
            raise FormatError("geometry: rotary positions need causal layers")
        if self.head_width is not None and not 1 <= self.head_width <= MAX_HEAD_WIDTH:
            raise FormatError(f"geometry: head_width is {self.head_width}, must be 1 to {MAX_HEAD_WIDTH}")

"""What sentence-transformers stores beside an encoder: pooling, normalisation and the longest text."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from host.json_file import read_json
from shard_store.errors import CheckpointError
from shard_store.head import Pooling

# Older files have one flag per mode, newer ones name the mode.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = ("Transformer", "Pooling", "Normalize")


class _Module(BaseModel):
    """One entry of modules.json."""

    path: str
    type: str

    @property
    def kind(self) -> str:
        """The class name: packages have moved between releases."""
        return self.type.rpartition(".")[2]


class _PoolingConfig(BaseModel):
    """1_Pooling/config.json."""

    model_config = ConfigDict(extra="allow")

    pooling_mode: str | list[str] | None = None

    @property
    def modes(self) -> list[str]:
        """Every mode that is switched on; 'mean' where none is, as in sentence-transformers."""
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        extra = self.model_extra or {}
        return [mode for flag, mode in _FLAGS.items() if extra.get(flag)] or ["mean"]


class _SentenceConfig(BaseModel):
    """sentence_bert_config.json."""

    max_seq_length: int | None = None


@dataclass(frozen=True, slots=True)
class SentencePooling:
    """How token vectors become one text's vector."""

    pooling: Pooling = Pooling.MEAN
    normalize: bool = False
    max_tokens: int | None = None


def read_sentence_pooling(folder: Path) -> SentencePooling:
    """Read modules.json and what it names; plain encoders without it get mean pooling, not normalized.

    Raises:
        CheckpointError: malformed, or a module or pooling mode that is not supported.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return SentencePooling()
    modules = read_json(path, TypeAdapter(list[_Module]))
    kinds = tuple(module.kind for module in modules)
    if kinds not in (_MODULES[:2], _MODULES):
        found = ", ".join(kinds) or "none"
        raise CheckpointError(f"{path}: modules must be Transformer, Pooling and optionally Normalize, found {found}")
    sizes = folder / "sentence_bert_config.json"
    longest = read_json(sizes, TypeAdapter(_SentenceConfig)).max_seq_length if sizes.is_file() else None
    return SentencePooling(_read_pooling(folder, modules[1].path), "Normalize" in kinds, longest)


def _read_pooling(folder: Path, subfolder: str) -> Pooling:
    path = folder / subfolder / "config.json"
    if not path.resolve().parent.is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder / 'modules.json'}: path {subfolder!r} must lie in the same directory")
    modes = read_json(path, TypeAdapter(_PoolingConfig)).modes
    if modes not in (["cls"], ["mean"]):
        raise CheckpointError(f"{path}: pooling must be cls or mean, found {' + '.join(modes)}")
    return Pooling(modes[0])

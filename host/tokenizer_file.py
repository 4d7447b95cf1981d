"""The tokenizer of a model directory."""

from pathlib import Path

from pydantic import BaseModel, TypeAdapter
from tokenizers import Tokenizer

from host.json_file import read_json
from shard_store.errors import CheckpointError


class _TokenizerConfig(BaseModel):
    """tokenizer_config.json."""

    model_max_length: float | None = None


def read_tokenizer(folder: Path, vocabulary: int) -> bytes:
    """Return tokenizer.json without stored padding and truncation, which would cut or fill every text unasked.

    Raises:
        CheckpointError: missing, malformed, or with ids beyond the rows of the word embeddings.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{path}: missing; make it with AutoTokenizer.from_pretrained(DIR, use_fast=True).save_pretrained(DIR)"
        )
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer ({next(iter(str(error).splitlines()), '')})") from error
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest < vocabulary:
        raise CheckpointError(f"{path}: expected token ids 0 to {vocabulary - 1}, found {highest} as the highest")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer.to_str().encode()


def read_max_tokens(folder: Path) -> int | None:
    """The tokenizer's model_max_length; None where it is not stored (or stored as a huge number, as transformers does).

    Raises:
        CheckpointError: tokenizer_config.json is malformed.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    longest = read_json(path, TypeAdapter(_TokenizerConfig)).model_max_length
    return int(longest) if longest is not None and 1 <= longest < 1e9 else None

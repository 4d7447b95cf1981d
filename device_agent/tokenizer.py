"""A store's tokenizer, as encoders, decoders and profiles use it."""

from tokenizers import Tokenizer

from shard_store.errors import FormatError
from shard_store.reader import Store


def open_tokenizer(store: Store) -> Tokenizer:
    """A store's tokenizer, without padding and truncation. Raises FormatError if it cannot be used."""
    try:
        tokenizer = Tokenizer.from_buffer(store.tokenizer_bytes())
    except ValueError as error:
        raise FormatError(f"{store.path}: tokenizer.json cannot be used: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer

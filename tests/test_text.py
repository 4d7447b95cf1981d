"""Tokenising, and the embedding layer's output, against the golden models' own tokenizers and numpy."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from device_agent.executor import Activations
from device_agent.litert import Runtime
from device_agent.text import MASKED, Text, TextEncoder
from host.checkpoint import load_checkpoint
from shard_store.errors import FormatError, RequestError
from shard_store.reader import Store
from tests.reference import embed

StoreOf = Callable[[str], Path]
FAMILIES = ("bert-sequence", "distilbert-sequence", "roberta-embedding")


def encoder_of(path: Path) -> TextEncoder:
    store = Store.open(path)
    return TextEncoder(store, store.resident())


@pytest.fixture
def bert(golden_store: StoreOf) -> TextEncoder:
    return encoder_of(golden_store("bert-sequence"))


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_become_the_ids_that_transformers_gives(name: str, golden_store: StoreOf, golden_models: Path) -> None:
    case = json.loads((golden_models / "golden.json").read_text())[name]
    texts = [text for text in case["texts"] if isinstance(text, str)]
    for tokens, ids, mask in zip(
        encoder_of(golden_store(name)).tokenize(texts), case["input_ids"], case["attention_mask"], strict=False
    ):
        assert tokens.ids.tolist() == ids[: sum(mask)], "without the padding that tokenizer.json asks for"
        assert len(tokens) == len(tokens.types) == len(tokens.texts) == sum(mask)


def test_pairs_have_two_types(bert: TextEncoder) -> None:
    (tokens,) = bert.tokenize([("good", "bad film")])
    first = tokens.texts.index("[SEP]")
    assert tokens.types.tolist() == [0] * (first + 1) + [1] * (len(tokens) - first - 1)


@pytest.mark.parametrize(("tokens", "bucket"), [(3, 16), (16, 16), (17, 20), (20, 20)])
def test_the_bucket_is_the_shortest_that_holds_the_text(bert: TextEncoder, tokens: int, bucket: int) -> None:
    assert bert.max_tokens == 20
    (encoded,) = bert.tokenize(["good " * (tokens - 2)])
    assert (len(encoded), bert.bucket(encoded)) == (tokens, bucket)


@pytest.mark.parametrize("text", ["good " * 100, ("good " * 100, "bad " * 100)])
def test_long_texts_are_cut_only_when_asked(bert: TextEncoder, text: Text) -> None:
    (cut,) = bert.tokenize([text], truncate=True)
    assert len(cut) == bert.max_tokens
    assert cut.texts[-1] == "[SEP]"
    with pytest.raises(RequestError, match=r"input 1 has \d+ tokens, the limit is 20; shorten it or ask"):
        bert.tokenize(["good", text])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_embedding_layer_equals_the_reference(
    name: str, golden_store: StoreOf, golden_models: Path, runtime: Runtime
) -> None:
    encoder, checkpoint = encoder_of(golden_store(name)), load_checkpoint(golden_models / name)
    for text in ("good", "the bad film"):
        (tokens,) = encoder.tokenize([text])
        with closing(Activations(runtime, 16, checkpoint.config.hidden)) as activations:
            activations.hidden[:] = 7.0  # left by the text before
            activations.mask.array[:] = 7.0
            encoder.embed(tokens, activations)
            expected = embed(checkpoint, tokens.ids[None], tokens.types[None])[0]
            np.testing.assert_allclose(activations.hidden[: len(tokens)], expected, atol=1e-5)
            assert not activations.hidden[len(tokens) :].any()
            mask = [0.0] * len(tokens) + [MASKED] * (16 - len(tokens))
            assert activations.mask.array.ravel().tolist() == mask


def test_lone_surrogates_are_the_sender_s_mistake(bert: TextEncoder) -> None:
    with pytest.raises(RequestError, match="not valid Unicode"):
        bert.tokenize(["good", "\ud800"])
    assert len(bert.tokenize(["good"])) == 1


def test_a_text_without_tokens_is_refused(bert: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Tokenizer(WordLevel({"[UNK]": 0, "good": 1}, unk_token="[UNK]"))
    bare.pre_tokenizer = Whitespace()
    monkeypatch.setattr(bert, "_tokenizer", bare)
    with pytest.raises(RequestError, match="input 1 has no tokens; give it some text"):
        bert.tokenize(["good", "  "])


def test_empty_texts_have_their_special_tokens(bert: TextEncoder) -> None:
    assert [tokens.texts for tokens in bert.tokenize(["", " "])] == [("[CLS]", "[SEP]")] * 2


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_tokenizer_that_cannot_be_used_is_a_format_error(
    golden_store: StoreOf, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "tokenizer_bytes", lambda _store: content)
    with pytest.raises(FormatError, match=r"tokenizer\.json cannot be used") as caught:
        encoder_of(golden_store("bert-sequence"))
    assert "\n" not in str(caught.value)

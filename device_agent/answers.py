"""From what an engine returns to what a client reads."""

import base64
from typing import Literal

from device_agent.head import Floats, scores_of
from device_agent.report import Answer
from device_agent.schemas import (
    ClassificationItem,
    ClassificationList,
    EmbeddingItem,
    EmbeddingList,
    LabelScore,
    ModelCard,
    RunSummary,
    Sizes,
    TokenClassificationItem,
    TokenLabel,
    Usage,
)  # fmt: skip
from device_agent.text import Tokens
from shard_store.head import HeadKind
from shard_store.manifest import Manifest


def model_card(manifest: Manifest, created: int) -> ModelCard:
    """What a client may know of the loaded model. created: seconds since 1970."""
    model, geometry = manifest.description, manifest.geometry
    return ModelCard(
        id=model.model, created=created, family=model.family,
        head=model.head.kind.value, labels=list(model.head.labels),
        geometry=Sizes(
            layers=geometry.layers, hidden=geometry.hidden, heads=geometry.heads, ffn=geometry.ffn,
            slices=geometry.slices,
        ),
        bits=list(manifest.bitwidths), sequences=list(model.sequences),
        max_tokens=min(model.max_tokens, max(model.sequences)),
    )  # fmt: skip


def embedding_size(manifest: Manifest) -> int:
    """Numbers of an embedding."""
    dense = manifest.description.head.layers
    return manifest.resident[dense[-1].weight].shape[0] if dense else manifest.geometry.hidden


def embedding_list(
    manifest: Manifest, answer: Answer, encoding: Literal["float", "base64"], *, show_plan: bool = False
) -> EmbeddingList:
    """The answer to /v1/embeddings."""
    items = [
        EmbeddingItem(index=index, embedding=_base64(vector) if encoding == "base64" else vector.tolist())
        for index, vector in enumerate(answer.outputs)
    ]
    summary = RunSummary.of(answer.report, show_plan=show_plan)
    return EmbeddingList(data=items, model=manifest.description.model, usage=_usage(answer), sti=summary)


def classification_list(manifest: Manifest, answer: Answer, *, show_plan: bool = False) -> ClassificationList:
    """The answer to /v1/classify."""
    head = manifest.description.head
    items: list[ClassificationItem | TokenClassificationItem] = []
    for index, (logits, tokens) in enumerate(zip(answer.outputs, answer.tokens, strict=True)):
        scores = scores_of(logits, head.scores)
        if head.kind is HeadKind.TOKEN_CLASSIFICATION:
            items.append(TokenClassificationItem(index=index, tokens=_token_labels(tokens, scores, head.labels)))
        else:
            items.append(_classification(index, scores, head.labels))
    summary = RunSummary.of(answer.report, show_plan=show_plan)
    return ClassificationList(data=items, model=manifest.description.model, usage=_usage(answer), sti=summary)


def _usage(answer: Answer) -> Usage:
    return Usage(prompt_tokens=answer.report.tokens, total_tokens=answer.report.tokens)


def _classification(index: int, scores: Floats, labels: tuple[str, ...]) -> ClassificationItem:
    named = [LabelScore(label=label, score=score) for label, score in zip(labels, scores.tolist(), strict=True)]
    best = named[int(scores.argmax())]
    return ClassificationItem(index=index, label=best.label, score=best.score, scores=named)


def _token_labels(tokens: Tokens, scores: Floats, labels: tuple[str, ...]) -> list[TokenLabel]:
    """The best label of each token of the text; tokens that the tokenizer added, such as [CLS], are left out."""
    best = scores.argmax(axis=-1)  # (tokens,)
    return [
        TokenLabel(token=token, start=span[0], end=span[1], label=labels[label], score=float(row[label]))
        for token, span, label, row in zip(tokens.texts, tokens.spans, best.tolist(), scores, strict=True)
        if span is not None
    ]


def _base64(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")

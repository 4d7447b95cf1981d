"""Elastic fine-tuning of the tiny golden checkpoints."""

from pathlib import Path

from host.adapt.adapt import AdaptReport, DataFiles, adapt
from host.adapt.batches import BatchSource
from host.adapt.model import ClassifierWeights, ElasticClassifier
from host.adapt.options import AdaptOptions, Precision
from host.adapt.trained_weights import read_weights
from host.checkpoint import Checkpoint
from host.embedder import Embedder
from host.labelled_texts import LabelledTexts

SUBJECTS = ("the cat", "the film", "a mat", "a warm film", "the dull mat", "a dull cat", "the warm cat", "a film")
VERBS = ("is", "was", "is very", "was very")
EXAMPLES = LabelledTexts(
    tuple(f"{subject} {verb} {word} ." for subject in SUBJECTS for verb in VERBS for word in ("bad", "good")),
    tuple(range(2)) * (len(SUBJECTS) * len(VERBS)),
)
OPTIONS = AdaptOptions(
    steps=6, batch=8, learning_rate=1e-3, slices=2, max_tokens=16, precision=Precision.FLOAT32, save_every=2
)


def write_examples(folder: Path, examples: LabelledTexts = EXAMPLES) -> Path:
    """The examples as a file."""
    path = folder / "examples.tsv"
    rows = (f"{text}\t{label}\n" for text, label in zip(examples.texts, examples.labels, strict=True))
    path.write_text("".join(rows))
    return path


def adapt_quietly(model: Path, out: Path, options: AdaptOptions = OPTIONS) -> AdaptReport:
    """Adapt on the examples, which are written beside the output."""
    data = write_examples(out.parent)
    return adapt(str(model), DataFiles(data, data), out, options, lambda _stage, _done, _total: None)


def source_of(checkpoint: Checkpoint, max_tokens: int = 16) -> BatchSource:
    """The examples as batches."""
    return BatchSource(checkpoint, Embedder.of(checkpoint), EXAMPLES, max_tokens)


def classifier_of(
    checkpoint: Checkpoint, slices: int = 2, precision: Precision = Precision.FLOAT32,
    weights: ClassifierWeights | None = None,
) -> ElasticClassifier:  # fmt: skip
    """A checkpoint with a head, ready to train."""
    pooling = checkpoint.head.pooling
    assert pooling is not None
    return ElasticClassifier(
        weights or read_weights(checkpoint), checkpoint.layout.sequence_head, checkpoint.geometry(slices),
        pooling=pooling, precision=precision,
    )  # fmt: skip

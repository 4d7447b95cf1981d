"""The main flow of elastic fine-tuning."""

import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from host.adapt.accuracy import SubmodelAccuracy, measure_accuracy
from host.adapt.batches import BatchSource
from host.adapt.importance import measure_importance, sort_layers
from host.adapt.model import ClassifierWeights, ElasticClassifier
from host.adapt.objective import Submodels, WholeModel
from host.adapt.options import AdaptOptions, LayerChoice, Precision
from host.adapt.output import check_absent, write_classifier
from host.adapt.trained_weights import read_weights, trained_weights
from host.adapt.training import train
from host.adapt.training_folder import TrainingFolder, settings_of
from host.checkpoint import Checkpoint, load_checkpoint
from host.display import Report
from host.embedder import Embedder
from host.encoder_config import ProblemType
from host.labelled_texts import LabelledTexts, read_labelled
from shard_store.errors import CheckpointError, DataError
from shard_store.head import HeadKind, Pooling

_IMPORTANCE_BATCHES = 32
_SMALL_SHARE = 4  # a quarter of the slices is the width that every step trains beside the full one


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Labelled texts."""

    train: Path
    dev: Path  # measured on only


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """What came out."""

    out: Path
    layers: int
    slices: int
    steps: int
    precision: Precision
    pooling: Pooling
    training_texts: int
    dev_texts: int
    seconds: float  # of this run; a continued one counts from where it was
    teacher_accuracy: float  # 0 to 1
    submodels: tuple[SubmodelAccuracy, ...]  # on the dev texts


@dataclass(frozen=True, slots=True)
class _Run:
    """What every stage of the training needs."""

    options: AdaptOptions
    data: BatchSource
    folder: Path
    progress: Report


def adapt(source: str, files: DataFiles, out: Path, options: AdaptOptions, progress: Report) -> AdaptReport:
    """Make a classifier elastic and write it to `out`. What is unfinished stays beside it, and a rerun continues it.

    Raises:
        StiError: of the checkpoint, the data, the options, or a training that does not go on.
    """
    started, out = time.monotonic(), out.resolve()
    check_absent(out)
    checkpoint = load_checkpoint(source)
    geometry = checkpoint.geometry(options.slices)
    choices = options.choices(geometry.layers)
    train_texts, dev_texts = read_labelled(files.train), read_labelled(files.dev)
    labels = _labels(checkpoint, train_texts)
    _check(train_texts, files.train, labels, options.batch)
    _check(dev_texts, files.dev, labels, 1)
    embedder = Embedder.of(checkpoint)
    with TrainingFolder(out, settings_of(checkpoint, files.train, options)) as folder:
        progress("tokenize", 0, 1)
        data = BatchSource(checkpoint, embedder, train_texts, options.max_tokens)
        run = _Run(options, data, folder.path, progress)
        if checkpoint.head.kind is HeadKind.EMBEDDING:
            checkpoint = _fine_tune(checkpoint, labels, run)
        teacher = _classifier(checkpoint, read_weights(checkpoint), options, checkpoint.head.pooling or Pooling.CLS)
        weights = trained_weights(_make_elastic(checkpoint, teacher, choices, run))

        pooling = _pooling(checkpoint, options)
        exact = replace(options, precision=Precision.FLOAT32)
        dev = BatchSource(checkpoint, embedder, dev_texts, options.max_tokens)
        submodels = measure_accuracy(
            _classifier(checkpoint, weights, exact, pooling), dev, choices, range(1, geometry.slices + 1),
            lambda done: progress("accuracy of every submodel", done, geometry.slices),
        )  # fmt: skip
        (whole,) = measure_accuracy(teacher, dev, choices[-1:], [geometry.slices])
        stated = None if choices == AdaptOptions().choices(geometry.layers) else choices
        write_classifier(checkpoint, weights, out, labels=labels, pooling=pooling, elastic_layers=stated)
        folder.remove()
    return AdaptReport(
        out, geometry.layers, geometry.slices, options.steps, options.precision.resolved(), pooling,
        len(train_texts.texts), len(dev_texts.texts), time.monotonic() - started, whole.accuracy, submodels,
    )  # fmt: skip


def _labels(checkpoint: Checkpoint, data: LabelledTexts) -> tuple[str, ...]:
    head = checkpoint.head
    if head.kind is HeadKind.EMBEDDING:
        return tuple(f"LABEL_{index}" for index in range(max(2, max(data.labels) + 1)))
    if head.kind is not HeadKind.SEQUENCE_CLASSIFICATION or head.problem_type is not ProblemType.SINGLE_LABEL:
        task = f"{head.kind.value} {head.problem_type.value if head.problem_type else ''}".strip()
        raise CheckpointError(
            f"{checkpoint.folder}: its head is a {task}, must be a sequence classification "
            "with one label for each text, or none"
        )
    return head.labels


def _check(data: LabelledTexts, path: Path, labels: tuple[str, ...], fewest: int) -> None:
    if max(data.labels) >= len(labels):
        raise DataError(f"{path}: found label {max(data.labels)}, the model has labels 0 to {len(labels) - 1}")
    if len(data.texts) < fewest:
        raise DataError(f"{path}: {len(data.texts)} texts are less than one batch; give --batch {len(data.texts)}")


def _pooling(checkpoint: Checkpoint, options: AdaptOptions) -> Pooling:
    return options.pooling or checkpoint.head.pooling or Pooling.MEAN


def _classifier(
    checkpoint: Checkpoint, weights: ClassifierWeights, options: AdaptOptions, pooling: Pooling
) -> ElasticClassifier:
    return ElasticClassifier(
        weights, checkpoint.layout.sequence_head, checkpoint.geometry(options.slices),
        pooling=pooling, precision=options.precision.resolved(),
    )  # fmt: skip


def _fine_tune(checkpoint: Checkpoint, labels: tuple[str, ...], run: _Run) -> Checkpoint:
    """Add a head and train the whole model: the teacher, kept beside the training."""
    out, options = run.folder / "teacher", run.options
    if not out.exists():
        pooling = _pooling(checkpoint, options)
        weights = read_weights(checkpoint, len(labels), options.seed)
        model = _classifier(checkpoint, weights, options, pooling)
        state = run.folder / "fine-tune.safetensors"
        train(model, WholeModel(model), run.data, options, state=state, stage="fine-tune", progress=run.progress)
        write_classifier(checkpoint, trained_weights(model), out, labels=labels, pooling=pooling)
    return load_checkpoint(out)


def _make_elastic(
    checkpoint: Checkpoint, teacher: ElasticClassifier, choices: tuple[LayerChoice, ...], run: _Run
) -> ElasticClassifier:
    """Sort by importance, then train every submodel."""
    state, options = run.folder / "adapt.safetensors", run.options
    weights = read_weights(checkpoint)
    if not state.exists():  # else the saved weights are sorted already
        count = min(_IMPORTANCE_BATCHES, len(run.data) // options.batch)
        batches = islice(run.data.shuffled(options.batch, options.seed, 0), count)
        importance = measure_importance(teacher, batches, lambda done: run.progress("importance", done, count))
        weights = ClassifierWeights(sort_layers(weights.layers, importance), weights.head)
    student = _classifier(checkpoint, weights, options, _pooling(checkpoint, options))
    small = max(1, teacher.geometry.slices // _SMALL_SHARE)
    objective = Submodels(student, teacher, choices, small=small, seed=options.seed)
    train(student, objective, run.data, options, state=state, stage="adapt", progress=run.progress)
    return student

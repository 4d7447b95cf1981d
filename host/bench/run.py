"""The main flow of `sti bench`."""

from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from host.bench.emulated import EmulatedPhone
from host.bench.facts import whole_model_bytes
from host.bench.job import Job, Progress
from host.bench.options import BenchOptions
from host.bench.plots import draw
from host.bench.records import Records
from host.bench.results import BenchResult, document_of, environment, row_of, write_csv, write_json
from host.bench.subject import subject_of
from host.bench.verdict import verdict_of
from host.labelled_texts import read_labelled
from shard_store.errors import DataError
from shard_store.store_files import MANIFEST_FILE

CSV_FILE = "bench.csv"
JSON_FILE = "bench.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a folder of records belongs to."""

    manifest_sha256: str
    data_sha256: str
    options: BenchOptions


def bench(store_path: Path, data_path: Path, out: Path, options: BenchOptions, progress: Progress) -> BenchResult:
    """Measure a store, method by method, and write what docs/bench.md lists into `out`.

    What is in `out` already is not measured again. Raises DataError for unusable data or a folder of another bench,
    PlanError for a store without a profile, DeviceError if the agent cannot run.
    """
    subject = subject_of(store_path, read_labelled(data_path, options.texts))
    records = Records(out / "records")
    _check_identity(records, store_path, data_path, options)
    began = environment()
    job = Job(subject, records, EmulatedPhone(store_path, out / "device"), options, out / "costs", progress)
    facts = {setting: job.facts(setting) for setting in options.settings}
    some = next(iter(facts.values()))
    cells = [cell for setting in options.settings for cell in job.cold(setting, facts[setting])]
    warm = job.warm(cells, facts)
    accuracies = job.accuracies(cells, some)
    model = subject.manifest.description.model
    rows = tuple(
        row_of(cell, model, subject.sequence, facts=facts[cell.setting], warm=warm, accuracies=accuracies)
        for cell in cells
    )
    result = BenchResult(
        model=model,
        sequence=subject.sequence,
        texts=len(subject.data.texts),
        environment=began,
        options=options,
        memory_bytes=job.memory_bytes(some),
        whole_model_bytes=whole_model_bytes(some, subject.sequence),
        rows=rows,
    )
    write_csv(out / CSV_FILE, rows)
    write_json(out / JSON_FILE, {**document_of(result), "verdict": asdict(verdict_of(rows))})
    draw(rows, out)
    return result


def _check_identity(records: Records, store_path: Path, data_path: Path, options: BenchOptions) -> None:
    """Records of another store, other data or other options must not be mixed in."""
    now = Identity(_sha256(store_path / MANIFEST_FILE), _sha256(data_path), options)
    if records.once("bench", Identity, lambda: now) != now:
        raise DataError(
            f"{records.folder}: records of another store, other data or other options; choose another --out"
        )


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()

"""What rows add up to."""

from dataclasses import replace

from host.bench.results import Row
from host.bench.verdict import verdict_of

ROW = Row(
    model="m", sequence=64, flash_mb_s=84, cpu_percent=100, kernel_flash=True, target_ms=50, method="STI", layers=4,
    slices=6, bits="2 6", mean_bits=3.5, resident_layers=0, accuracy=88.0, predicted_loss=0.1, runs=10, plan_share=1.0,
    predicted_ms=45, cold_p50_ms=44, cold_p95_ms=47, warm_p50_ms=20, warm_p95_ms=21, predicted_met=True, met_share=1.0,
    promised_runs=10, kept_runs=10, prediction_error=0.02, wait_ms=3, predicted_peak_mib=6.3, model_peak_mib=6.0,
    process_growth_mib=7.0, io_binds=True, io_binds_8=False, whole_computes=False, reason=None,
)  # fmt: skip


def other(method: str, accuracy: float, **changes: object) -> Row:
    return replace(ROW, method=method, accuracy=accuracy, **changes)  # type: ignore[arg-type]


def test_the_gain_is_over_the_best_that_does_not_preload() -> None:
    rows = [ROW, other("StdPL-8", 84.0), other("Load&Exec", 50.0), other("PreloadModel-32", 90.0)]
    verdict = verdict_of(rows)
    (item,) = verdict.comparisons
    assert (item.best_streaming_method, item.gain, item.failures) == ("StdPL-8", 4.0, ())
    assert (verdict.mean_gain_io_binds, verdict.mean_gain_io_binds_8) == (4.0, None)


def test_falling_short_of_a_baseline_is_listed() -> None:
    (item,) = verdict_of([ROW, other("StdPL-6", 88.2), other("StdPL-8", 88.5)]).comparisons
    assert len(item.failures) == 1
    assert item.failures[0].startswith("0.50 points below StdPL-8 (88.50); it ran 4 x 6 at 3.5 bits")


def test_where_the_whole_model_computes_in_time_it_is_the_measure() -> None:
    own = replace(ROW, whole_computes=True)
    whole = other("PreloadModel-32", 89.0, model_peak_mib=50.0)
    (item,) = verdict_of([own, other("StdPL-8", 84.0), whole]).comparisons
    assert [failure.split(" ", 1)[1] for failure in item.failures] == [
        "points below PreloadModel-32 (89.00); it ran 4 x 6 at 3.5 bits",
        "6.0 MiB, 12% of PreloadModel-32's 50.0 MiB",
    ]


def test_predictions_are_summed_up_over_runs() -> None:
    late = replace(ROW, target_ms=60, kept_runs=8, prediction_error=0.2, predicted_peak_mib=5.7)
    found = verdict_of([ROW, late, other("StdPL-8", 80.0, promised_runs=0, kept_runs=0)])
    assert found.sti.median_error == 0.11
    assert (found.sti.promised_runs, found.sti.kept_share) == (20, 0.9)
    assert (round(found.sti.lowest_peak_ratio, 3), round(found.sti.highest_peak_ratio, 3)) == (0.95, 1.05)
    assert found.all_methods.promised_runs == 20


def test_a_model_without_classes_has_predictions_only() -> None:
    verdict = verdict_of([replace(ROW, accuracy=None), replace(ROW, method="StdPL-8", accuracy=None)])
    assert (verdict.comparisons, verdict.mean_gain_io_binds) == ((), None)

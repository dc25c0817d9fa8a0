from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import MeasurementError
from memprof.model.accuracy import ALL, Accuracy, Row, Run, Score
from memprof.verify import bands, scoring, summary
from memprof.verify.replay import accuracy

ERRORS = st.lists(st.integers(-500, 500), min_size=1, max_size=40)


def runs(count: int, **fields: object) -> dict[str, Run]:
    settings = [{"precision": "fp32" if index % 2 else "bf16"} for index in range(count)]
    return {
        f"run{index}": Run(
            kind="training, fp32", architecture="sm_80", family=f"family{index // 3}", settings=setting, **fields
        )  # type: ignore[arg-type]
        for index, setting in enumerate(settings)
    }


def scores(permille: list[int], engine: str = "analytic") -> list[Score]:
    """Predictions that are off by so many thousandths."""
    return [
        Score(
            run=f"run{index}", engine=engine, metric="reserved", part="peak",
            measured_bytes=1_000_000, predicted_bytes=1_000_000 + 1_000 * off,
        )
        for index, off in enumerate(permille)
    ]  # fmt: skip


def over_all(found: list[Row]) -> Row:
    return next(row for row in found if row.setting == ALL)


def answered(permille: list[int]) -> Accuracy:
    return accuracy(scores(permille), runs(len(permille)), num_records=len(permille))


def test_a_row_says_how_far_off_and_to_which_side() -> None:
    row = over_all(scoring.rows(scores([-30, 10, 20, 0]), runs(4)))
    assert (row.num_runs, row.num_families) == (4, 2)
    assert (row.median, row.p95, row.worst) == (0.015, 0.03, -0.03)
    assert (row.worst_run, row.under, row.refused) == ("run0", 0.25, 0.0)


def test_a_refusal_is_counted_and_is_no_error() -> None:
    refused = Score(
        run="run1", engine="analytic", metric="reserved", part="peak", measured_bytes=5, refused="no program"
    )
    row = over_all(scoring.rows([scores([10])[0], refused], runs(2)))
    assert (row.num_runs, row.refused, row.worst) == (1, 0.5, 0.01)
    nothing = over_all(scoring.rows([refused], runs(2)))
    assert (nothing.num_runs, nothing.refused, nothing.median, nothing.under) == (0, 1.0, None, None)


@given(ERRORS)
def test_statistics_are_ordered_and_each_setting_is_a_part_of_the_whole(permille: list[int]) -> None:
    found = scoring.rows(scores(permille), runs(len(permille)))
    for row in found:
        assert row.median is not None
        assert row.p95 is not None
        assert row.worst is not None
        assert 0 <= row.median <= row.p95 <= abs(row.worst)
    by_precision = [row for row in found if row.setting == "precision"]
    assert sum(row.num_runs for row in by_precision) == over_all(found).num_runs == len(permille)
    assert max(abs(row.worst or 0) for row in by_precision) == abs(over_all(found).worst or 0)


@given(ERRORS)
def test_nothing_is_worse_than_itself(permille: list[int]) -> None:
    assert summary.loosened(answered(permille), answered(permille)) == []


@given(ERRORS, st.integers(1, 100))
def test_an_error_that_grows_makes_something_worse(permille: list[int], more: int) -> None:
    worst = max(range(len(permille)), key=lambda index: abs(permille[index]))
    grown = [off + (more if off >= 0 else -more) * (index == worst) for index, off in enumerate(permille)]
    assert any(each.statistic == "worst" for each in summary.loosened(answered(permille), answered(grown)))


def test_an_answer_that_becomes_a_refusal_is_worse() -> None:
    after = answered([1, 1])
    lost = Score(run="run1", engine="analytic", metric="reserved", part="peak", measured_bytes=1, refused="forgot")
    after = accuracy([after.scores[0], lost], runs(2), num_records=2)
    assert {each.statistic for each in summary.loosened(answered([1, 1]), after)} == {"refused"}


def test_other_runs_do_not_count_when_two_summaries_are_compared() -> None:
    assert summary.loosened(answered([1, 1]), answered([1, 1, 400])) == []


def test_a_worse_summary_needs_a_reason_and_keeps_it() -> None:
    before, after = answered([1, 1]), answered([1, 9])
    with pytest.raises(MeasurementError, match=r"would be worse.*--reason"):
        summary.updated(before, after, "")
    updated = summary.updated(before, after, "the old figure was luck")
    assert {each.reason for each in updated.reasons} == {"the old figure was luck"}
    assert any(each.statistic == "worst" and each.was == 0.001 and each.now == 0.009 for each in updated.reasons)
    assert summary.updated(updated, after, "").reasons == updated.reasons


def test_a_summary_is_read_back_and_has_one_line_for_each_score(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "summary.json"
    summary.write(answered([1, -2, 3]), path)
    assert summary.read(path) == answered([1, -2, 3])
    assert sum('"measured_bytes"' in line for line in path.read_text().splitlines()) == 3


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 99}', '{"memprof_version": 1, "num_records": 1}'])
def test_a_damaged_summary_is_one_error(tmp_path, text: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "summary.json"
    path.write_text(text)
    with pytest.raises(MeasurementError, match=r"summary\.json"):
        summary.read(path)


def test_a_band_spans_what_the_runs_showed() -> None:
    [band] = bands.bands(answered([-30, 10, 20, 0, 0]))
    assert (band.rung, band.architecture, band.kind, band.metric) == ("analytic", "sm_80", "training, fp32", "reserved")
    assert (band.num_runs, band.num_families) == (5, 2)
    assert band.low <= 1 / 1.02
    assert band.high >= 1 / 0.97
    assert band.low == pytest.approx(1 / 1.02, abs=1e-4)
    assert band.high == pytest.approx(1 / 0.97, abs=1e-4)


@given(st.lists(st.integers(-500, 500), min_size=5, max_size=40))
def test_every_run_lies_inside_the_band_it_made(permille: list[int]) -> None:
    [band] = bands.bands(answered(permille))
    for score in scores(permille):
        assert score.predicted_bytes is not None
        low, high = band.around(score.predicted_bytes)
        assert low - 1 <= score.measured_bytes <= high + 1


def test_few_runs_and_runs_that_are_partly_assumed_make_no_band() -> None:
    assert bands.bands(answered([0, 0, 0, 0])) == []
    assumed = accuracy(scores([0] * 9), runs(9, is_stated=False), num_records=9)
    assert bands.bands(assumed) == []

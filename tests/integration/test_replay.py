"""Today's predictions of every recorded run, held against the committed summary."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from memprof.__main__ import main
from memprof.catalog import bands as package
from memprof.catalog.resolve import find_config
from memprof.model.accuracy import Accuracy
from memprof.model.evidence import Evidence
from memprof.verify import bands, scoring, store, summary
from memprof.verify.replay import predicted, replay
from memprof.views.accuracy_rows import loosened as say

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "reports" / "evidence"
COMMITTED = summary.read(summary.of(FOLDER))
RECORDS = store.read_all(FOLDER)
HOW_TO = "memprof verify --replay reports/evidence --update-summary writes it anew, --reason says why it is worse"
TRACED = 3
"""So many of the records that the trace engine answers are traced on every change; all of them with -m slow."""


@pytest.fixture(scope="module")
def analytic() -> Accuracy:
    return replay(RECORDS, engines=["analytic"])


def traceable() -> list[Evidence]:
    """The records with a traced prediction in the summary: those that are wholly stated first, then by size."""
    answered = {score.run for score in COMMITTED.scores if score.engine == "trace" and score.predicted_bytes}
    found = [record for record in RECORDS if store.key(record) in answered]
    return sorted(found, key=lambda record: (bool(record.assumed), record.measured.peak_reserved_bytes or 0))


def not_worse(accuracy: Accuracy) -> None:
    worse = [say(each) for each in summary.loosened(COMMITTED, accuracy)]
    assert not worse, f"accuracy is worse than reports/evidence/summary.json; {HOW_TO}:\n" + "\n".join(worse)


def test_no_analytic_prediction_is_worse_than_the_summary_says(analytic: Accuracy) -> None:
    not_worse(analytic)


def test_the_trace_engine_is_not_worse_on_the_smallest_records() -> None:
    not_worse(replay(traceable()[:TRACED], engines=["trace"]))


@pytest.mark.slow
def test_the_trace_engine_is_not_worse_on_any_record() -> None:
    not_worse(replay(RECORDS, engines=["trace"]))


def test_every_measured_record_is_in_the_summary(analytic: Accuracy) -> None:
    assert set(analytic.runs) == set(COMMITTED.runs), HOW_TO
    assert analytic.runs == COMMITTED.runs, HOW_TO
    assert COMMITTED.num_records == len(RECORDS)


def test_the_summarys_statistics_are_those_of_its_scores() -> None:
    assert COMMITTED.rows == scoring.rows(COMMITTED.scores, COMMITTED.runs)
    assert COMMITTED.worse == []


def test_the_packages_bands_are_made_of_the_summary() -> None:
    found = (ROOT / "memprof" / "catalog" / "bands.json").read_bytes()
    how = "python -m memprof.verify.bands reports/evidence/summary.json > memprof/catalog/bands.json"
    assert found == bands.encode(bands.bands(COMMITTED)), how


def test_every_stated_run_of_a_band_lies_inside_it() -> None:
    checked = 0
    for score in COMMITTED.scores:
        run = COMMITTED.runs[score.run]
        band = package.find(bands.RUNGS[score.engine], run.architecture, run.kind).get(score.metric)
        if band is not None and run.is_stated and score.part == "peak" and score.predicted_bytes:
            low, high = band.around(score.predicted_bytes)
            assert low <= score.measured_bytes <= high
            checked += 1
    assert checked


def test_whatever_became_worse_since_the_last_commit_has_its_reason() -> None:
    """In git's history, as an edit by hand could loosen the file without the command that asks for a reason."""
    before = earlier_summary()
    reasons = {key(each) for each in COMMITTED.reasons if each.reason.strip()}
    missing = [say(each) for each in summary.loosened(before, COMMITTED) if key(each) not in reasons]
    assert not missing, f"no reason is given for what is worse; {HOW_TO}:\n" + "\n".join(missing)


def key(loose: object) -> tuple[str, ...]:
    return tuple(str(getattr(loose, name)) for name in ("engine", "metric", "part", "setting", "value", "statistic"))


def earlier_summary() -> Accuracy:
    """The newest committed summary that is not the one in the folder."""
    path = "reports/evidence/summary.json"
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git history is here")
    now = (ROOT / path).read_bytes()
    commits = git("log", "--format=%H", "-n", "10", "--", path).decode().split()
    texts = (git("show", f"{commit}:{path}") for commit in commits)
    for text in texts:
        if text and text != now:
            return msgspec.json.decode(text, type=Accuracy)
    pytest.skip("the summary has no earlier version")


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False).stdout


def test_a_record_brings_the_config_of_a_model_that_no_catalog_has() -> None:
    record = next(record for record in RECORDS if record.name == "xmem-057")
    config, _ = find_config(record.scenario.model)
    scenario = msgspec.structs.replace(record.scenario, model="elsewhere/config.json")
    moved = msgspec.structs.replace(record, scenario=scenario, model_config=config)
    assert predicted(moved, "analytic").peak_reserved_bytes == predicted(record, "analytic").peak_reserved_bytes


def test_the_trace_engine_does_not_answer_for_code_that_it_cannot_run() -> None:
    of_litgpt = next(record for record in RECORDS if "litgpt's own code" in " ".join(record.assumed))
    too_old = next(record for record in RECORDS if record.scenario.software.transformers == "4.35.2")
    for record in (of_litgpt, too_old):
        assert "no transformers that is traced, 4.51 or newer" in (predicted(record, "trace").refused or "")


OF_2023 = [record for record in RECORDS if record.name.startswith("optbench-")]


@pytest.mark.parametrize("record", OF_2023, ids=lambda record: record.name)
def test_inference_with_transformers_of_2023_is_within_half_a_percent(record: Evidence) -> None:
    """Caches that were tuples, logits of all positions in float32; with math attention and with flash-attn."""
    assert record.scenario.software.transformers == "4.35.2"
    assert predicted(record, "analytic").peak_allocated_bytes == pytest.approx(
        record.measured.peak_allocated_bytes, rel=0.005
    )


def test_code_that_a_record_names_is_never_run() -> None:
    scenario = msgspec.structs.replace(RECORDS[0].scenario, model="tests.support.trace_factories:raising")
    for engine in ("analytic", "trace"):
        found = predicted(msgspec.structs.replace(RECORDS[0], scenario=scenario), engine)
        assert "which a replay never runs" in (found.refused or "")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A store of one run, which only the analytic engine answers."""
    found = (record for record in RECORDS if record.name == "optbench-llama-2-13b-hf-fp16-b1-forward-allocated")
    store.write(next(found), tmp_path)
    return tmp_path


def test_the_command_prints_how_far_off_each_engine_is(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--replay", str(small), "--engine", "analytic"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 recorded runs")
    assert "analytic: allocated bytes" in out
    assert main(["verify", "--replay", str(small), "--engine", "analytic", "--format", "markdown"]) == 0
    assert "| analytic: allocated bytes | 1 |" in capsys.readouterr().out
    assert main(["verify", "--replay", str(small), "--engine", "analytic", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["engine"], row["metric"], row["num_runs"], row["refused"]) == ("analytic", "allocated", 1, 0)


def test_the_command_ends_with_one_where_the_summary_was_better(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--replay", str(small), "--update-summary"]) == 0
    path = summary.of(small)
    good = summary.read(path)
    better = [
        msgspec.structs.replace(score, predicted_bytes=score.predicted_bytes and score.measured_bytes)
        for score in good.scores
    ]
    summary.write(msgspec.structs.replace(good, scores=better), path)
    before = path.read_bytes()
    capsys.readouterr()
    assert main(["verify", "--replay", str(small), "--engine", "analytic"]) == 1
    assert "Worse than the summary" in capsys.readouterr().out
    assert main(["verify", "--replay", str(small), "--update-summary"]) == 2
    assert "--reason" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main(["verify", "--replay", str(small), "--update-summary", "--reason", "it had cheated"]) == 0
    assert {each.reason for each in summary.read(path).reasons} == {"it had cheated"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"schema_version": 99}', "schema_version 99"),
        (store.encode(RECORDS[0])[:700], "no record of a run"),
        (b'{"name": "x", "status": "fine"}', "no record of a run"),
    ],
)
def test_a_store_that_cannot_be_read_is_one_line(
    small: Path, text: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "zz.json").write_bytes(text)
    assert main(["verify", "--replay", str(small)]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert said in answer.err
    assert (small / "zz.json").read_bytes() == text


def test_options_that_exclude_each_other_are_one_line(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--replay", str(small), "--import", "runs.jsonl"]) == 2
    assert main(["verify", "--update-summary"]) == 2
    assert main(["verify", "--replay", str(small), "--engine", "trace", "--update-summary"]) == 2
    assert main(["verify", "--replay", str(small / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 4

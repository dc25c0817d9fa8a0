"""A small repository with configs of axolotl, accelerate, DeepSpeed and the Trainer: one changed line fails a check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from junitparser import Failure

from memprof.__main__ import main
from tests.support import check_formats

DEMO = Path(__file__).with_name("check_demo")


class OneLine(NamedTuple):
    """A change of one line, the check that it fails, and the setting that it is."""

    file: str
    before: str
    after: str
    check: str
    field: str


CHANGES = [
    OneLine("axolotl/lora-1b.yaml", "sequence_len: 2048", "sequence_len: 8192", "LoRA", "batch.sequence_length"),
    OneLine("axolotl/lora-1b.yaml", "adapter: lora", "adapter:", "LoRA", "adapter.rank"),
    OneLine("launch/accelerate.yaml", "num_processes: 8", "num_processes: 2", "full", "parallelism.data"),
    OneLine("launch/zero3.json", '"stage": 3', '"stage": 1', "full", "parallelism.strategy"),
    OneLine("trainer/arguments.json", '_batch_size": 4', '_batch_size": 16', "GPT-2", "batch.micro_batch_size"),
    OneLine("memprof.yaml", "limit: 8 GiB", "limit: 2 GiB", "GPT-2", ""),
]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository after its baseline was made."""
    folder = tmp_path_factory.mktemp("repository") / "demo"
    shutil.copytree(DEMO, folder)
    (folder / ".git").mkdir()
    assert main(["check", "--update-baseline", "--config", str(folder / "memprof.yaml")]) == 0
    return folder


@pytest.fixture
def demo(baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which commands run."""
    folder = tmp_path / "demo"
    shutil.copytree(baseline, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return folder


def test_all_checks_pass_in_the_repository_as_it_is(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--output", "github"]) == 0
    assert capsys.readouterr().out == "3 checks: 3 passed\n"


@pytest.mark.parametrize("change", CHANGES, ids=[f"{change.file} {change.after}" for change in CHANGES])
def test_one_changed_line_fails_its_check_in_every_format(
    demo: Path, change: OneLine, capsys: pytest.CaptureFixture[str]
) -> None:
    path = demo / change.file
    text = path.read_text(encoding="utf-8")
    assert text.count(change.before) == 1
    changed = text.replace(change.before, change.after)
    path.write_text(changed, encoding="utf-8")
    line = changed.splitlines().index(next(one for one in changed.splitlines() if change.after in one)) + 1
    files = [f"--output={name}:{name}.out" for name in ("text", "concise", "json", "markdown", "junit", "sarif")]
    assert main(["check", "--output", "github", *files]) == 1
    out = capsys.readouterr().out

    annotations = [told for told in map(check_formats.runner_reads, out.splitlines()) if told is not None]
    [annotation] = annotations
    assert out.splitlines()[-1] == "3 checks: 2 passed, 1 failed"
    assert annotation.command == "error"
    assert annotation.properties["title"].startswith(f"memprof: {change.check}")
    if change.field != "adapter.rank":  # a line that is gone cannot be pointed at
        assert (annotation.properties["file"], annotation.properties["line"]) == (change.file, str(line))

    read = {name: Path(f"{name}.out").read_text(encoding="utf-8") for name in ("text", "concise", "markdown")}
    assert all("3 checks: 2 passed, 1 failed" in text for text in read.values())
    assert (demo.parent / "summary.md").read_text(encoding="utf-8") == read["markdown"]

    told = json.loads(Path("json.out").read_text(encoding="utf-8"))
    [failed] = [check for check in told["checks"] if check["status"] == "failed"]
    assert failed["message"] == annotation.message
    assert failed["value_bytes"] > failed["limit"]["num_bytes"] or failed["growth"]["increase_bytes"] > 0
    assert failed["fix"]["is_enough"]
    if change.field:
        assert change.field in [one["field"] for one in failed["growth"]["changes"]]
        assert sum(failed["components"].values()) > 0

    [suite] = check_formats.junit(Path("junit.out").read_text(encoding="utf-8"))
    [broken] = [case for case in suite if case.result]
    assert isinstance(broken.result[0], Failure)
    assert broken.result[0].message == annotation.message

    [result] = check_formats.sarif(Path("sarif.out").read_text(encoding="utf-8"))["runs"][0]["results"]
    location = result["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == annotation.properties["file"]
    assert location["region"]["startLine"] == int(annotation.properties["line"])


@pytest.mark.parametrize("flags", [[], ["--exit-zero"]])
def test_what_an_import_cannot_follow_is_unknown_never_a_pass(
    demo: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = demo / "trainer" / "arguments.json"
    text = path.read_text(encoding="utf-8").replace("adamw_torch_fused", "galore_adamw")
    path.write_text(text, encoding="utf-8")
    assert main(["check", "--output", "concise", *flags]) == (0 if flags else 1)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("memprof.yaml:13: error: GPT-2 with the Trainer: reserved bytes unknown; ")
    assert "trainer/arguments.json:6: optim galore_adamw: the estimate does not know this optimizer" in first
    assert last == "3 checks: 2 passed, 1 unknown"


@pytest.mark.parametrize("name", ["../outside.json", "launch/link.json", "launch/loop.json", "launch/missing.json"])
def test_a_file_outside_the_repository_is_refused_and_not_hidden(
    demo: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = demo.parent / "outside.json"
    outside.write_text("{}", encoding="utf-8")
    (demo / "launch" / "link.json").symlink_to(outside)
    (demo / "launch" / "loop.json").symlink_to(demo / "launch" / "loop.json")
    config = demo / "memprof.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("launch/zero3.json", name), encoding="utf-8")
    assert main(["check", "--exit-zero", "--output", "github"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("memprof: error: memprof.yaml:7: check 'full fine-tuning over 8 GPUs': ")
    assert err.count("\n") == 1
    annotation = check_formats.runner_reads(out)
    assert annotation is not None
    assert annotation.message == err.removeprefix("memprof: error: ").rstrip()
    assert (annotation.properties["file"], annotation.properties["line"]) == ("memprof.yaml", "7")

"""``reports/examples`` holds what memprof draws today, of five scenarios."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memprof.__main__ import main

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "reports" / "examples").glob("*.html"))


def test_there_are_five_and_the_makefile_draws_each() -> None:
    drawn = re.search(r"^EXAMPLES := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert drawn is not None
    assert [path.stem for path in EXAMPLES] == sorted(drawn[1].split())
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_is_what_make_examples_draws(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    (tmp_path / "reports" / "examples").mkdir(parents=True)
    out = f"reports/examples/{example.name}"
    assert main(["estimate", "--scenario", f"scenarios/{example.stem}.yaml", "-o", out, "--force"]) == 0
    # Compared before it is asserted, as no one wants to see the difference of two such texts.
    is_current = (tmp_path / out).read_bytes() == example.read_bytes()
    assert is_current, "run `make examples`"

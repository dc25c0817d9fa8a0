"""The README shows what its first command prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from memprof.__main__ import main

README = Path(__file__).parents[2] / "README.md"


def test_the_first_command_prints_what_the_readme_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["estimate", "llama-13b"]) == 0
    shown = README.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    assert capsys.readouterr().out.rstrip() == shown.rstrip()

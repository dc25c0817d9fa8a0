from __future__ import annotations

import json

import pytest

from memprof.__main__ import main


def test_the_table_lists_names_with_their_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "llama-13b"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "parameters", "layers", "hidden", "hub", "id"]
    assert "llama-13b 13.02 B 40 5120 huggyllama/llama-13b" in [" ".join(row.split()) for row in rows]


def test_a_wide_terminal_shows_the_source(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models", "gpt2-xl"]) == 0
    assert "https://huggingface.co/" in capsys.readouterr().out


def test_json_has_exact_counts_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "GPT2", "--json"]) == 0
    by_name = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert by_name["gpt2"]["num_parameters"] == 124_439_808
    assert by_name["gpt2"]["num_layers"] == 12
    assert by_name["gpt2"]["hidden_size"] == 768
    assert all(model["source"].startswith("https://") for model in by_name.values())


def test_all_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert models == sorted(models, key=lambda model: model["name"])
    assert all(model["num_parameters"] > 0 and model["num_layers"] > 0 and model["hidden_size"] for model in models)

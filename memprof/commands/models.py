"""``memprof models``: the models that go by a short name."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from memprof.commands.output import emit
from memprof.errors import ModelError


@click.command()
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write the list as JSON.")
def command(pattern: str | None, as_json: bool) -> None:
    """List the models of the catalog, or those whose name or hub id contains PATTERN.

    A wide terminal and --json also show where each model's dimensions were read.
    """
    found = [_described(entry) for entry in _matching(pattern)]
    if not found:
        raise ModelError(f"no model's name contains {pattern!r}", "memprof models lists them all")
    if as_json:
        from memprof.views import json

        emit(json.render(found))
    else:
        emit(_table(found))


def _matching(pattern: str | None) -> list[Any]:
    from memprof.catalog.names import entries, normal

    wanted = normal(pattern or "")
    return [entry for entry in entries() if any(wanted in spelling for spelling in entry.spellings())]


def _described(entry: Any) -> dict[str, Any]:
    from memprof.catalog.resolve import resolve

    model = resolve(entry.name)
    return {
        "name": model.name,
        "hf_id": model.hf_id,
        "task": model.task,
        "num_parameters": model.num_parameters,
        "num_layers": sum(stage.count for stage in model.stages if stage.name.endswith("*")),
        "hidden_size": next((model.config[key] for key in _WIDTHS if key in model.config), None),
        "source": model.source,
    }


_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")


_WIDE_ENOUGH_FOR_SOURCES = 150


def _table(found: list[dict[str, Any]]) -> str:
    from memprof.units import format_count
    from memprof.views import table
    from memprof.views.terminal import terminal_of

    terminal = terminal_of(sys.stdout, os.environ)
    columns = {
        "model": [m["name"] for m in found],
        "parameters": [format_count(m["num_parameters"]) for m in found],
        "layers": [str(m["num_layers"]) for m in found],
        "hidden": [str(m["hidden_size"] or "") for m in found],
        "hub id": [m["hf_id"] or "" for m in found],
    }
    if terminal.width >= _WIDE_ENOUGH_FOR_SOURCES:
        columns["source"] = [m["source"] for m in found]
    return table.render(list(columns), zip(*columns.values(), strict=True), terminal, numbers=(1, 2, 3))

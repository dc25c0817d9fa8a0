"""Markdown for a pull request or an issue: the answer, the breakdown, the rest folded away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memprof.model.result import Result
from memprof.units import format_bytes, gib
from memprof.views import phrases


def render(result: Result) -> str:
    """The whole answer as GitHub-flavoured Markdown."""
    parts = [
        f"**{phrases.answer(result)}**",
        f"{escape(phrases.model_line(result))}  \n{escape(phrases.scenario_line(result))}",
        table((f"At the peak, in {phrases.peak_place(result)}", "", ""), _breakdown(result)),
    ]
    phases = [(phrases.spelled(name), gib(size)) for name, size in result.phase_peak_bytes.items() if size is not None]
    parts.append(folded("Peak of each phase", table(("Phase", "Peak"), phases)))
    held = [(phrases.spelled(name), gib(size)) for name, size in result.persistent_bytes.items()]
    parts.append(folded("Held all the time", table(("Component", "Size"), held)))
    if result.alternatives:
        ways = [phrases.alternative_row(alternative) for alternative in result.alternatives]
        parts.append(folded("Other ways to run it", table(("", "Peak", "Verdict"), ways)))
    if result.terms:
        parts.append(folded("Terms", table(("Term", "Bytes", "Formula", "Values", "Source"), _terms(result))))
    advice = phrases.advice(result)
    if advice is not None:
        parts.append(f"**What to do:** {escape(advice)}")
    parts += [f"> warning: {escape(warning)}" for warning in result.warnings]
    parts.append(f"<sub>evidence: {escape(f'{result.evidence.rung}: {result.evidence.basis}')}</sub>")
    return "\n\n".join(parts) + "\n"


def _breakdown(result: Result) -> list[tuple[str, str, str]]:
    rows = [(name, gib(size), percent) for name, size, percent, _ in phrases.component_rows(result)]
    rows.append(("**allocated**", f"**{gib(result.peak.allocated_bytes)}**", ""))
    rows += [(phrases.spelled(name), gib(size), "") for name, size in result.overhead_bytes.items() if size]
    return rows


def _terms(result: Result) -> Iterable[tuple[str, ...]]:
    for term in result.terms:
        size = term.get("bytes")
        told = (phrases.term_values(term.get(name, "")) for name in ("formula", "values", "source"))
        yield (str(term["term"]), "" if size is None else format_bytes(size), *told)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Names to the left, the sizes of the second column to the right."""
    sides = ["---", "---:", *["---"] * (len(header) - 2)]
    lines = [map(escape, header), sides, *(map(escape, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(title: str, body: str) -> str:
    """What a reader opens by its title."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def escape(text: str) -> str:
    """Text that cannot open HTML, end a table cell or break its line."""
    for raw, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " "), ("_", "\\_")):
        text = text.replace(raw, safe)
    return text

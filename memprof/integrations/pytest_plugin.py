"""pytest plugin: a test fails where the step it stands for is predicted to take more GPU memory than it may.

A mark that describes a scenario is estimated before the test's body, which does not run if it fails::

    @pytest.mark.memprof("scenarios/train.yaml", limit="90 %", metric="reserved")
    def test_the_training_run_fits(): ...

    @pytest.mark.memprof(model="llama-3.1-8b", adapter={"rank": 16}, device="rtx-4090-24gb", limit="20 GiB")
    def test_fine_tuning_starts(trainer): trainer.train(max_steps=1)

One that names none holds what the test itself asks the fixture for::

    @pytest.mark.memprof(limit="72 GiB", context="600 MiB")
    def test_every_length_fits(memprof_estimate):
        for length in (2048, 4096, 8192):
            memprof_estimate("scenarios/train.yaml", batch={"sequence_length": length})

A model that is the test's own is named by what builds it, ``model="package.module:factory"``, and traced on fake
tensors. What cannot be known fails, too. ``--memprof`` shows every estimate at the end and the breakdown of what
failed; ``--memprof-json`` writes them in the form of pytest-benchmark's JSON.

pytest imports this module in every run, so it imports nothing of memprof until a test asks for an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memprof.model.result import Result

_MARK = (
    "memprof(scenario, limit, metric, context, **fields): fail, before it runs, a test whose step is predicted to take"
    " more GPU memory than its limit ('72 GiB' or '90 %'). scenario is a file or a mapping, fields beat it; metric is"
    " device, reserved or allocated; context is what nvidia-smi shows beyond the reserved bytes."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("memprof", "predicted GPU memory")
    group.addoption("--memprof", action="store_true", help="Show each estimate, and the breakdown of what failed.")
    group.addoption("--memprof-json", metavar="FILE", help="Write the estimates there, as pytest-benchmark does.")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """What it raises keeps the test's body from running."""
    if item.get_closest_marker("memprof") is not None:
        from memprof.integrations.pytest_estimates import hold

        hold(item)


@pytest.fixture
def memprof_estimate(request: pytest.FixtureRequest) -> Callable[..., Result]:
    """Estimates a scenario - a file, a mapping, or fields by name, over those of the mark - and returns the result.

    The test fails where that is more than its mark allows.
    """
    from memprof.integrations.pytest_estimates import estimate

    return partial(estimate, request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Only the process that reports gets here, so with xdist the estimates of all workers come together."""
    show, path = config.getoption("memprof"), config.getoption("memprof_json")
    if not show and path is None:
        return
    from memprof.integrations import pytest_report

    outcomes = pytest_report.collect(terminalreporter)
    if show:
        pytest_report.show(outcomes, terminalreporter)
    if path is not None:
        pytest_report.write(outcomes, path)
        terminalreporter.write_line(f"memprof: wrote {path}")

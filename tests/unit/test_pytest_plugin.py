from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from xml.etree import ElementTree as ET

import pytest

from memprof import api
from memprof.integrations import pytest_estimates, pytest_plugin, pytest_report
from memprof.model.scenario import Scenario

pytest_plugins = ["pytester"]

PLUGIN = pytest_plugin.__name__
GPT2 = 'model="gpt2", metric="reserved"'


class Runs:
    """Test files run by a pytest of their own in this process, with the plugin and without this project's settings."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def __call__(self, body: str, *args: str) -> pytest.RunResult:
        self.pytester.makepyfile(f"import pytest\n\n{body}")
        return self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """pytester forgets what a run imported; what is imported again does not know what stayed."""
    assert pytest_estimates.PROPERTY == pytest_report.PROPERTY
    api.estimate(Scenario(model="gpt2"))


@pytest.fixture
def run(pytester: pytest.Pytester) -> Runs:
    return Runs(pytester)


def marked(arguments: str, body: str = "pass", name: str = "test_it", fixtures: str = "") -> str:
    return f"@pytest.mark.memprof({arguments})\ndef {name}({fixtures}):\n    {body}\n\n"


def test_a_step_within_its_limit_passes_and_the_test_runs(run: Runs) -> None:
    body = marked(f'{GPT2}, limit="72 GiB"', "raise KeyError('it ran')")
    run(body).stdout.fnmatch_lines(["*KeyError: 'it ran'"])


def test_a_step_over_its_limit_fails_before_the_test_runs(run: Runs) -> None:
    result = run(marked(f'{GPT2}, limit="1 GiB"', "raise KeyError('it ran')"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["memprof: * GiB reserved*limit 1.00 GiB: * too much", "largest: *"])
    result.stdout.no_fnmatch_line("*it ran*")
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_message_says_what_would_fix_it(run: Runs) -> None:
    result = run(marked('model="llama-3.1-8b", limit="72 GiB", metric="reserved"'))
    result.stdout.fnmatch_lines(["fix: pure bf16 would take * GiB, * less"])


def test_a_share_is_of_the_device(run: Runs) -> None:
    result = run(marked(f'{GPT2}, limit="1 %", device="rtx-4090-24gb"'))
    result.stdout.fnmatch_lines(["memprof: *limit 0.2? GiB (1 %):*"])


def test_what_cannot_be_known_is_no_pass(run: Runs) -> None:
    result = run(
        marked('model="gpt2", limit="1 TiB", device="cpu"', name="test_a")
        + marked('model="llama-13b", limit="1 TiB", parallelism={"pipeline": 2}', name="test_b")
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*set metric: allocated*", "memprof: device bytes unknown*", "*pipeline*"])


def test_device_bytes_are_reserved_ones_and_the_context(run: Runs) -> None:
    body = marked('model="gpt2", limit="80 GiB", context="1 GiB"', name="test_a")
    path = run.pytester.path / "out.json"
    run(body + marked(f'{GPT2}, limit="80 GiB"', name="test_b"), f"--memprof-json={path}").assert_outcomes(passed=2)
    device, reserved = (each["stats"]["max"] for each in json.loads(path.read_text())["benchmarks"])
    assert device - reserved == 1 << 30


def test_the_closest_mark_wins(run: Runs) -> None:
    result = run(
        'pytestmark = pytest.mark.memprof(limit="1 GiB", metric="reserved")\n\n'
        + marked('model="gpt2"', name="test_a")
        + marked('model="gpt2", limit="9 GiB"', name="test_b")
        + "def test_c(): pass\n"
    )
    result.assert_outcomes(failed=1, passed=2)


def test_a_scenario_file_is_found_from_the_root_and_fields_beat_it(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    root = run.pytester.path
    root.joinpath("train.yaml").write_text("model: gpt2\nbatch: {micro_batch_size: 8, sequence_length: 256}\n")
    run.pytester.makeini("[pytest]")
    run.pytester.mkdir("deep")
    run.pytester.makepyfile(
        **{
            "deep/test_it": "import pytest\n"
            + marked('"train.yaml", batch={"sequence_length": 512}, limit="1 B", metric="reserved"')
        }
    )
    monkeypatch.chdir(root / "deep")
    out = root / "out.json"
    run.pytester.runpytest_inprocess(f"--memprof-json={out}").assert_outcomes(failed=1)
    [benchmark] = json.loads(out.read_text())["benchmarks"]
    settings = benchmark["extra_info"]["settings"]
    assert (settings["batch.micro_batch_size"], settings["batch.sequence_length"]) == (8, 512)


def test_the_fixture_estimates_and_is_held_to_the_limit_of_the_mark(run: Runs) -> None:
    loop = "for n in (128, 1024): print('fits', memprof_estimate(batch={'sequence_length': n}).peak.reserved_bytes)"
    result = run(
        marked(
            'limit="2.5 GiB", metric="reserved"',
            f"memprof_estimate(model='gpt2')\n    {loop}",
            fixtures="memprof_estimate",
        )
    )
    result.assert_outcomes(failed=1)
    passing = run(marked(f'{GPT2}, limit="9 GiB"', loop, fixtures="memprof_estimate"), "-s")
    passing.assert_outcomes(passed=1)
    passing.stdout.fnmatch_lines(["*fits*", "*fits*"])


def test_the_fixture_alone_only_tells(run: Runs) -> None:
    body = "def test_it(memprof_estimate):\n    assert memprof_estimate({'model': 'gpt2'}).verdict.status == 'fits'\n"
    run(body, "--memprof").stdout.fnmatch_lines(["1 check: 1 passed", "passed *test_it *GiB*"])


def test_a_model_of_the_test_s_own_is_traced(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        net="import torch\n"
        "def tiny(batch_size):\n"
        "    return torch.nn.Linear(512, 512), torch.zeros(batch_size, 512), lambda output, _: output.sum()\n",
        test_it="import pytest\n"
        + marked('model="net:tiny", task="custom", device="cpu", metric="allocated", limit="2 MiB"'),
    )
    # Weights of 1 MiB, their gradients and AdamW's two moments; its own process, as torch is imported once.
    result = pytester.runpytest_subprocess("--memprof")
    result.stdout.fnmatch_lines(["memprof: 0.00 GiB allocated*: 2.* MiB too much", "largest: optimizer states *"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('model="gpt3", limit="1 GiB"', "no model is called 'gpt3'; did you mean gpt2*"),
        ('model="gpt2", limit="1 GiB", metrik="device"', "the mark memprof knows no 'metrik'; did you mean metric?"),
        ('model="gpt2", limit="much"', "'much' is *size*"),
        (
            'model="gpt2", limit="1 GiB", metric="vram"',
            "metric must be one of device, reserved, allocated, got 'vram'*",
        ),
        ('model="gpt2"', "the mark memprof has no limit*"),
        ('limit="1 GiB"', "the mark memprof names no scenario*"),
        ('"a.yaml", scenario="b.yaml", limit="1 GiB"', "the mark memprof names two scenarios*"),
        ('"a.yaml", limit="1 GiB"', "scenario file *a.yaml cannot be read*"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Runs, arguments: str, told: str) -> None:
    result = run(marked(arguments))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"memprof: {told}"])
    result.stdout.no_fnmatch_line("*During handling*")


def test_the_section_shows_every_estimate_and_breaks_down_what_failed(run: Runs) -> None:
    result = run(
        marked(f'{GPT2}, limit="9 GiB"', name="test_a") + marked(f'{GPT2}, limit="1 GiB"', name="test_b"), "--memprof"
    )
    result.stdout.fnmatch_lines([
        "*= memprof =*", "2 checks: 1 passed, 1 failed", "passed *test_a *", "failed *test_b *",
        "*test_b at its peak, on h100-80gb", "  activations * GiB * %", "  allocated * GiB  100 %",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*test_a at its peak*")


def test_skipped_and_deselected_tests_cost_nothing(run: Runs) -> None:
    body = "@pytest.mark.skip\n" + marked('model="gpt3", limit="1 GiB"')
    result = run(body, "--memprof")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["0 checks:*"])


def test_a_limit_that_the_card_does_not_have_is_a_warning(run: Runs) -> None:
    result = run(marked('model="llama-13b", metric="reserved", limit="1 TiB"'), "-Wdefault")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestWarning: memprof: *the limit is above*"])


def test_outcomes_of_xdist_workers_come_together_and_into_junit(run: Runs) -> None:
    path = run.pytester.path / "junit.xml"
    body = "".join(marked(f'{GPT2}, limit="{n} GiB"', name=f"test_{n}") for n in (1, 9))
    run(body, "--memprof", "-n1", f"--junitxml={path}").stdout.fnmatch_lines(["2 checks: 1 passed, 1 failed"])
    values = [each.get("value", "") for each in ET.parse(path).iter("property")]
    assert sorted(json.loads(value)["status"] for value in values) == ["failed", "passed"]


def test_pytest_benchmark_reads_the_json(run: Runs) -> None:
    path = run.pytester.path / "out.json"
    run(marked(f'{GPT2}, limit="9 GiB"'), f"--memprof-json={path}").assert_outcomes(passed=1)
    [benchmark] = json.loads(path.read_text())["benchmarks"]
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--columns=max,rounds"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=path.parent).stdout
    assert "test_it" in shown
    assert f"{benchmark['stats']['max']:,}" in shown


def test_runs_without_a_mark_import_nothing_of_memprof_but_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure():\n"
        "    names = {name for name in sys.modules if name.split('.')[0] in ('memprof', 'msgspec')}\n"
        f"    assert names == {{'memprof', 'memprof.integrations', {PLUGIN!r}}}, names\n"
    )
    result = pytester.runpytest_subprocess()
    assert result.ret == 0, result.stderr.str()


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    [found] = entry_points(group="pytest11", name="memprof")
    assert found.value == PLUGIN

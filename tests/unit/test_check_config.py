from __future__ import annotations

from pathlib import Path

import pytest

from memprof.check.config import find, load
from memprof.errors import ConfigError, MemprofError, UsageError

SOUND = "checks:\n  - {name: a, scenario: {model: gpt2}, limit: 8 GiB}\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    return tmp_path


def written(folder: Path, text: str, name: str = "memprof.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_check_is_filled_up_from_the_defaults(repository: Path) -> None:
    config = load(
        written(
            repository,
            "defaults: {limit: 90 %, metric: reserved, level: warn, context: 500 MiB, device: a100-40gb}\n"
            "checks:\n"
            "  - {name: a, scenario: {model: gpt2}}\n"
            "  - {name: b, scenario: s.yaml, limit: 8 GiB, metric: allocated, level: error, max_increase: 1 %}\n",
        )
    )
    assert [config.rule(0).limit, config.rule(0).metric, config.rule(0).level] == ["90 %", "reserved", "warn"]
    assert [config.rule(0).device, config.rule(0).context_bytes] == ["a100-40gb", 500 << 20]
    assert [config.rule(1).limit, config.rule(1).metric, config.rule(1).level] == ["8 GiB", "allocated", "error"]
    assert config.rule(1).max_increase == "1 %"


def test_without_defaults_the_metric_is_the_device_and_a_failure_an_error(repository: Path) -> None:
    rule = load(written(repository, SOUND)).rule(0)
    assert (rule.metric, rule.level, rule.device, rule.context_bytes) == ("device", "error", None, None)


def test_pyproject_holds_the_same_and_knows_its_lines(repository: Path) -> None:
    text = (
        '[project]\nname = "x"\n[tool.memprof.defaults]\nlimit = "90 %"\n'
        '[[tool.memprof.checks]]\nname = "a"\nscenario = {model = "gpt2"}\n'
        '[[tool.memprof.checks]]\nname = "b"\nfrom = ["x.yaml"]\nlimit = "8 GiB"\n'
    )
    config = load(written(repository, text, "pyproject.toml"))
    assert [check.name for check in config.checks] == ["a", "b"]
    assert config.checks[1].imported == ("x.yaml",)
    assert config.place("checks", 1, "limit").line == 11
    assert config.place("checks", 0, "limit").line == 5  # not written: the check itself
    assert config.place("checks", 1).path == "pyproject.toml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SOUND.replace("limit", "lmit"), "memprof.yaml:2: checks.0.lmit: unknown field; did you mean limit?"),
        ("defaults: {metrics: reserved}\n" + SOUND, "memprof.yaml:1: defaults.metrics: unknown field; did you mean"),
        ("cheks: []\n", "memprof.yaml:1: cheks: unknown field; did you mean checks?"),
        (SOUND + "    level: eror\n", "memprof.yaml"),
        (SOUND.replace("}\n", ", level: eror}\n"), "checks.0.level must be one of error, warn, info, got 'eror'"),
        (SOUND.replace("}\n", ", metric: cached}\n"), "checks.0.metric must be one of device, reserved, allocated"),
        (SOUND.replace("name: a, ", ""), "memprof.yaml:2: checks.0.name is missing; add it"),
        (SOUND.replace("name: a", "name: [a]"), "checks.0.name must be text, got a list"),
        (SOUND.replace("name: a", "name: ' '"), "a check's name must be one line of text"),
        (SOUND.replace("name: a", 'name: "a\\n::error::b"'), "a check's name must be one line of text"),
        (SOUND + SOUND.splitlines()[1] + "\n", "memprof.yaml:3: two checks are called 'a'"),
        (SOUND.replace("scenario: {model: gpt2}, ", ""), "memprof.yaml:2: check 'a' has no scenario"),
        (SOUND.replace(", limit: 8 GiB", ""), "check 'a' has nothing to hold; add limit"),
        (SOUND.replace("8 GiB", "8"), "checks.0.limit must be text or null, got 8"),
        (SOUND.replace("8 GiB", "'8'"), "check 'a': '8' is no size with a unit; write it as 72 GiB or 90 %"),
        (SOUND.replace("}\n", ", max_increase: much}\n"), "check 'a': 'much' is no size with a unit"),
        (SOUND.replace("}\n", ", context: much}\n"), "check 'a': 'much' is no size with a unit; write it as 600 MiB"),
        ("checks: []\n", "memprof.yaml:1: checks is empty"),
        ("baseline: ../b.json\n" + SOUND, "memprof.yaml:1: baseline ../b.json lies outside the repository"),
        ("defaults: {}\n", "checks is missing; every config needs it"),
    ],
)
def test_what_is_no_config_is_one_line_with_its_place(repository: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(written(repository, text))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_nearest_config_of_the_repository_is_found(repository: Path) -> None:
    written(repository, "[tool.other]\n# not memprof\n", "pyproject.toml")
    path = written(repository, SOUND)
    inner = repository / "a" / "b"
    inner.mkdir(parents=True)
    assert find(inner) == path
    nearer = written(repository / "a", "[tool.memprof]\nchecks = []\n", "pyproject.toml")
    assert find(inner) == nearer


def test_two_configs_in_a_folder_are_one_too_many(repository: Path) -> None:
    written(repository, SOUND)
    written(repository, "[tool.memprof]\nchecks = []\n", "pyproject.toml")
    with pytest.raises(ConfigError, match=r"holds checks in memprof\.yaml and pyproject\.toml; keep one"):
        find(repository)


def test_a_config_outside_the_repository_is_not_its_own(repository: Path) -> None:
    inner = repository / "inner"
    (inner / ".git").mkdir(parents=True)
    written(repository, SOUND)
    with pytest.raises(UsageError, match="no checks are configured"):
        find(inner)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"checks: [\n",
        b"checks:\n\t- a\n",
        b"a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\n"
        + b"".join(
            b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c]\n" % (c + 1, c + 1, c, c, c, c, c, c) for c in range(98, 112)
        ),
        b"checks: [{name: a, name: b}]\n",
        b"checks: !!python/object/apply:os.system [ls]\n",
        b"- a list\n",
        b"x: " + b"[" * 5000 + b"]" * 5000,
        b"a" * (1 << 20),
        b"\0\0\0",
    ],
    ids=["utf-16", "broken", "tab", "bomb", "twice", "tag", "list", "deep", "large", "nul"],
)
def test_a_hostile_config_is_one_line(repository: Path, content: bytes) -> None:
    path = repository / "memprof.yaml"
    path.write_bytes(content)
    with pytest.raises(MemprofError) as raised:
        load(path)
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


def test_a_loop_of_links_is_one_line(repository: Path) -> None:
    (repository / "memprof.yaml").symlink_to(repository / "memprof.yaml")
    with pytest.raises(MemprofError, match="cannot be read"):
        load(repository / "memprof.yaml")


def test_the_readme_shows_a_config_that_can_be_read(repository: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    [shown] = [block for block in readme.split("```yaml\n")[1:] if block.startswith("defaults:")]
    config = load(written(repository, shown.split("```")[0]))
    assert [config.rule(index).limit for index in range(3)] == ["90 %", "90 %", "40 GiB"]

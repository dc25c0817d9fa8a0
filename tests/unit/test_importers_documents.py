from __future__ import annotations

import json
import os
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.importers import json_lines, toml_lines, yaml_lines
from memprof.importers.documents import Document, read


def written(folder: Path, name: str, content: bytes | str) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refusal(path: str, root: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, root=root)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


def test_each_key_of_a_yaml_file_has_its_line(tmp_path: Path) -> None:
    document = read(written(tmp_path, "a.yml", "bf16: true\nlora:\n  r: 8\n  on: [q, v]\nlr: 1.0e-5\n1: ~\n"))
    assert document.data == {"bf16": True, "lora": {"r": 8, "on": ["q", "v"]}, "lr": 1e-5, "1": None}
    assert document.line("lora", "r") == 3
    assert document.line("lora", "on", 1) == 4
    assert document.where("1").endswith("a.yml:6")


def test_each_key_of_a_json_file_has_its_line(tmp_path: Path) -> None:
    text = '{\n\t"zero": {\n\t\t"stage": 3, "why": "a\\"{,"},\n\t"list": [1,\n{"x": "auto"}]}'
    document = read(written(tmp_path, "a.json", text))
    assert document.data == {"zero": {"stage": 3, "why": 'a"{,'}, "list": [1, {"x": "auto"}]}
    keys = [("zero",), ("zero", "stage"), ("zero", "why"), ("list",), ("list", 0), ("list", 1), ("list", 1, "x")]
    assert [document.line(*key) for key in keys] == [2, 3, 3, 4, 4, 5, 5]


def test_each_key_of_a_toml_file_has_its_line(tmp_path: Path) -> None:
    text = '[a.b]\nc = 1\n"d e".f = """\ng = 2\n"""\n[[t]]\nx = 1\n[[t]]\nx = 2\n[t.u]\ny = 2026-01-01\n'
    document = read(written(tmp_path, "a.toml", text))
    assert document.data["t"][1] == {"x": 2, "u": {"y": "2026-01-01"}}
    keys = [("a", "b", "c"), ("a", "b", "d e", "f"), ("t", 0, "x"), ("t", 1, "x"), ("t", 1, "u", "y")]
    assert [document.line(*key) for key in keys] == [2, 3, 7, 9, 11]
    assert document.line("g") is None


def test_json_is_known_by_its_brace_where_the_suffix_says_nothing(tmp_path: Path) -> None:
    assert read(written(tmp_path, "settings", '{"a":\t1}')).data == {"a": 1}


def test_what_an_alias_stands_for_has_the_line_of_its_key(tmp_path: Path) -> None:
    text = "base: &b {r: 8, k: 1}\nmine: *b\nmerged: {<<: *b, k: 2}\n"
    document = read(written(tmp_path, "a.yaml", text))
    assert document.data["mine"] == {"r": 8, "k": 1}
    assert document.data["merged"] == {"r": 8, "k": 2}
    assert document.line("mine", "r") == 2


SCALARS = "true True no on off ~ null 0 -7 0x1F 0o17 017 1_000 1:30 1e3 1.5e+3 .5 .inf -.INF .nan = x"


@pytest.mark.parametrize("scalar", SCALARS.split())
def test_scalars_are_read_as_safe_load_reads_them(scalar: str) -> None:
    ours, theirs = yaml_lines.parse(f"a: {scalar}")[0]["a"], None
    with suppress(yaml.YAMLError):  # "=" has a tag of its own, which safe_load cannot construct
        theirs = yaml.safe_load(f"a: {scalar}")["a"]
        assert repr(ours) == repr(theirs)
        return
    assert ours == scalar


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "a: 1\nb: 2\na: 3", "line 3: a twice is not allowed"),
        ("a.yaml", '"\\e[31m": 1\n"\\e[31m": 2', "line 2: '\\x1b[31m' twice is not allowed"),
        ("a.yaml", "a:\n\tb: 1", "line 2: "),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]", "line 1: a tag"),
        ("a.yaml", "a: 1\n---\nb: 1", "line 2: a second document"),
        ("a.yaml", "a: *b", "line 1: an alias *b without its anchor"),
        ("a.yaml", "a: &b [*b]", "line 1: an alias *b without its anchor"),
        ("a.yaml", "a: {<<: 1}", "line 1: a merge of what is no mapping"),
        ("a.yaml", "a: " + "9" * 5000, "line 1: the number 999"),
        ("a.yaml", "a: " + "[" * 5000, "line 1: fields nested too deep"),
        ("a.yaml", "- a", "it holds no fields"),
        ("a.yaml", "a: \x07", "it holds characters that YAML does not allow"),
        ("a.yaml", b"a: \xff\xfe", "is not UTF-8 text"),
        ("a.yaml", b"a: 1\n" * (10 << 20), "is larger than 256 KiB"),
        ("a.json", '{"a": 1,\n"a": 2}', "line 2: a twice is not allowed"),
        ("a.json", '{"a": {"b": 1, "b": 2}}', "line 1: b twice is not allowed"),
        ("a.json", '{"a": 1,\n}', "line "),
        ("a.json", '{"a": ' + "[" * 100_000, "line 1: "),
        ("a.json", '{"a": ' + "[" * 20 + "]" * 20 + "}", "line 1: fields nested too deep"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "a number is too long"),
        ("a.json", "[]", "it holds no fields"),
        ("a.json", '{"' + '\\"' * 100_000, "line 1: "),
        ("a.json", '{"a": [' + "1," * 60_000 + "1]}", "more than 50,000 values"),
        ("a.toml", "a = 1\na = 2", "it is not TOML: "),
        ("a.toml", "a = [\n", "it is not TOML: "),
        ("a.toml", ".".join("a" * 100_000) + " = 1", "fields nested too deep"),
        ("a.toml", ".".join("a" * 20) + " = 1", "fields nested too deep"),
        ("a.toml", "a = " + "[" * 100_000, "fields nested too deep"),
        ("a.toml", "a = " + "9" * 5000, "it is not TOML: "),
        ("a.toml", "", "it holds no fields"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "long",
)
def test_what_is_broken_or_hostile_is_one_line_soon(
    tmp_path: Path, name: str, content: bytes | str, message: str
) -> None:
    start = time.monotonic()
    assert message in refusal(written(tmp_path, name, content))
    assert time.monotonic() - start < 3


def bomb(levels: int) -> str:
    return "a0: &a0 [lol, lol]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, levels)
    )


def test_a_yaml_bomb_does_not_go_off(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", bomb(12))
    tracemalloc.start()
    try:
        assert "more than 50,000 values" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


def test_merged_bombs_count_too(tmp_path: Path) -> None:
    text = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{l: *a{n - 1}, r: *a{n - 1}}}\n" for n in range(1, 30))
    assert "more than 50,000 values" in refusal(written(tmp_path, "a.yaml", text))


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    loop, pipe = tmp_path / "loop.yaml", tmp_path / "pipe.yaml"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path in (str(loop), str(pipe), str(tmp_path), "/dev/zero", "missing.yaml", "a\0b"):
        assert "cannot be read" in refusal(path)


def test_only_files_inside_the_root_are_read(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    outside, inside = written(tmp_path, "secret.yaml", "a: 1"), written(root, "mine.yaml", "a: 2")
    (root / "link.yaml").symlink_to(outside)
    assert read(inside, root=str(root)).data == {"a": 2}
    for path in (outside, str(root / "link.yaml"), str(root / ".." / "secret.yaml"), str(root) + "2", "a\0b"):
        assert "lies outside" in refusal(path, str(root))


def test_a_line_is_that_of_the_nearest_key_above() -> None:
    document = Document(path="a.yaml", data={}, lines={("a",): 3})
    assert document.where("a", "b", 0) == "a.yaml:3"
    assert document.where("c") == "a.yaml"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=5), st.sampled_from([None, 1, "\t"]))
def test_any_json_is_read_as_the_standard_library_reads_it(data: dict[str, object], indent: int | str | None) -> None:
    found, lines = json_lines.parse(json.dumps(data, indent=indent))
    assert found == data
    assert {(key,) for key in data} <= lines.keys()


NOISE = st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@?, \n\t#0~.=\\<\x85\ud800"), max_size=60)


@given(NOISE | st.text(max_size=60), st.sampled_from([yaml_lines.parse, json_lines.parse, toml_lines.parse]))
def test_any_text_is_a_mapping_or_a_config_error(text: str, parse: object) -> None:
    with suppress(ConfigError):
        data, lines = parse(text)  # type: ignore[operator]
        assert isinstance(data, dict)
        assert all(1 <= line <= text.count("\n") + len(text.splitlines()) + 1 for line in lines.values())

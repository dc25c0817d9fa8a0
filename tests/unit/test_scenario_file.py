from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.importers.scenario_file import MAX_FILE_BYTES, parse, read
from memprof.model.consistency import check
from memprof.model.decode import decode

SCENARIOS = sorted(
    path for path in Path("scenarios").rglob("*.yaml") if path.name != "suites.yaml" and path.parent.name != "claims"
)


def test_the_examples_are_there() -> None:
    assert "llama-13b-a100.yaml" in {path.name for path in SCENARIOS}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.relative_to("scenarios").with_suffix("").as_posix())
def test_each_example_is_a_sound_scenario(path: Path) -> None:
    check(decode(read(str(path))))


def test_scalars_stay_text_until_their_field_is_known() -> None:
    text = "model: gpt2\nsoftware: {torch: 2.10}\noffload: [optimizer]\nadapter: null\nquantization:\nloss: 'null'\n"
    assert parse(text) == {
        "model": "gpt2",
        "software": {"torch": "2.10"},
        "offload": ["optimizer"],
        "adapter": None,
        "quantization": None,
        "loss": "null",
    }


def test_a_file_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: gpt2\n")
    assert read(str(path)) == {"model": "gpt2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no fields"),
        ("# nothing\n", "it holds no fields"),
        ("gpt2", "it holds no fields"),
        ("- gpt2", "it holds no fields"),
        ("model: gpt2\nmodel: opt", "line 2: model twice"),
        ("a: &x 1\nb: *x", "line 1: an anchor or alias"),
        ("model: *x", "line 1: an anchor or alias"),
        ("model: !!python/object/apply:os.system [ls]", "line 1: a tag"),
        ("model: gpt2\n---\nmodel: opt", "line 2: a second document"),
        ("batch: {micro_batch_size: 1", "line "),
        ("a: [" * 30 + "1" + "]" * 30, "line 1: fields nested too deep"),
        ("model: gpt2\n\tseed: 1", "line 2: "),
        ("? [a, b]\n: 1", "line 1: a field name that is not text"),
        ("model: \x00", "it holds characters that YAML does not allow"),
        ("%YAML 3.0\n---\nmodel: a", "line 1: "),
    ],
)
def test_what_a_scenario_does_not_need_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x81\xff", "is not UTF-8 text"),
        (b"#" * (MAX_FILE_BYTES + 1), "is larger than 64 KiB"),
        (b"model: [", "line "),
    ],
)
def test_a_file_that_is_none_is_named_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(str(path))
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["missing.yaml", ".", "a\0b"])
def test_a_path_that_cannot_be_read_says_why(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path)


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@?, \n\t#0~\x85\ud800"), max_size=40) | st.text(max_size=40))
def test_any_text_is_a_mapping_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(parse(text), dict)

"""From a name to an Architecture: order, heads, defaults, and one line for whatever is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.catalog.architectures import FAMILIES, family_of, lay_out
from memprof.catalog.resolve import is_factory, resolve
from memprof.errors import MemprofError, ModelError, UnsupportedError

LLAMA = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def write_safetensors(path: Path) -> Path:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    return path


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("gpt2", 124_439_808),
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-405b", 405_853_388_800),
        ("qwen2.5-0.5b", 494_032_768),
        ("mixtral-8x7b", 46_702_792_704),
        ("opt-350m", 331_196_416),
        ("bert-base-uncased", 109_514_298),
        ("gemma-2b", 2_506_172_416),
        ("gemma-7b", 8_537_680_896),
        ("gemma-3-270m", 268_098_176),
        ("ministral-8b", 8_019_808_256),
        ("mistral-nemo-12b", 12_247_782_400),
        ("mistral-small-24b", 23_572_403_200),
        ("devstral-small", 23_572_403_200),
        ("magistral-small", 23_572_403_200),
        ("open-llama-3b", 3_426_473_600),
        ("qwen3-4b-2507", 4_022_468_096),
        ("redpajama-incite-3b", 2_775_864_320),
        ("redpajama-incite-7b", 6_857_302_016),
        ("smollm-135m", 134_515_008),
        ("smollm-360m", 361_821_120),
        ("smollm-1.7b", 1_711_376_384),
        ("smollm3-3b", 3_075_098_624),
        ("stablelm-3b-4e1t", 2_795_443_200),
        ("stablelm-2-1.6b", 1_644_515_328),
    ],
)
def test_well_known_counts(name: str, num_parameters: int) -> None:
    assert resolve(name).num_parameters == num_parameters


def test_an_architecture_says_what_it_is() -> None:
    model = resolve("Meta-Llama/Llama-3.2-1B")

    assert (model.name, model.hf_id) == ("llama-3.2-1b", "meta-llama/Llama-3.2-1B")
    assert (model.model_type, model.task, model.tied) == ("llama", "causal-lm", True)
    assert [stage.name for stage in model.stages] == ["", "model.layers.*", ""]
    assert model.stages[1].count == model.config["num_hidden_layers"] == 16
    assert model.checkpoint_dtypes is None
    assert model.source.startswith("https://")


def test_defaults_are_filled_in_and_unknown_values_kept(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA | {"rope_theta": 5.0}))
    config = resolve(str(folder)).config

    assert (config["num_key_value_heads"], config["head_dim"], config["rope_theta"]) == (4, 8, 5.0)
    assert (config["hidden_act"], config["mlp_bias"], config["max_position_embeddings"]) == ("silu", False, 2048)


@pytest.mark.parametrize(
    ("task", "head", "last"),
    [
        (None, "causal-lm", ("lm_head.weight", (32000, 5120))),
        ("dpo", "causal-lm", ("lm_head.weight", (32000, 5120))),
        ("sequence-classification", "sequence-classification", ("score.weight", (2, 5120))),
        ("reward", "sequence-classification", ("score.weight", (1, 5120))),
        ("token-classification", "token-classification", ("score.bias", (2,))),
    ],
)
def test_the_head_follows_the_task(task: str | None, head: str, last: tuple[str, tuple[int, ...]]) -> None:
    model = resolve("llama-13b", task)
    parameter = model.stages[-1].parameters[-1]

    assert (model.task, (parameter.name, parameter.shape)) == (head, last)


@pytest.mark.parametrize("task", ["masked-lm", "seq2seq-lm", "image-classification", "custom"])
def test_a_head_that_the_model_lacks_is_refused(task: str) -> None:
    with pytest.raises(UnsupportedError, match="its tasks are causal-lm"):
        resolve("llama-13b", task)


def test_a_label_map_sets_the_number_of_labels() -> None:
    labels = {str(label): f"label {label}" for label in range(5)}

    assert lay_out(LLAMA | {"id2label": labels}, "sequence-classification").config["num_labels"] == 5


def test_a_folder_with_a_checkpoint_gives_its_true_bytes(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors")
    model = resolve(str(folder))

    assert model.checkpoint_dtypes == {"bfloat16": 16}
    assert model.hf_id is None
    assert model == resolve(str(folder))


def test_a_config_and_a_safetensors_file_are_models_too(folder: Path) -> None:
    path = write_safetensors(folder / "part.safetensors")

    assert resolve(str(folder / "config.json")).stages == resolve(str(path)).stages
    assert resolve(str(folder / "config.json")).checkpoint_dtypes is None
    assert resolve(str(path)).checkpoint_dtypes == {"bfloat16": 16}


def test_a_path_that_holds_a_model_comes_before_the_catalog(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("gpt2").model_type == "gpt2"

    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(LLAMA))
    assert resolve("gpt2").model_type == "llama"


BAD_CONFIGS: dict[str, bytes] = {
    "truncated": json.dumps(LLAMA).encode()[:40],
    "empty": b"",
    "not JSON": b"\x80\x04pickle",
    "a list": b"[]",
    "nested without end": b'{"a":' * 100_000,
    "no model_type": b"{}",
    "model_type of the wrong type": b'{"model_type": 7}',
    "unknown model_type": b'{"model_type": "perceptron"}',
    "text for a number": json.dumps(LLAMA | {"hidden_size": "32"}).encode(),
    "fraction": json.dumps(LLAMA | {"hidden_size": 32.5}).encode(),
    "negative": json.dumps(LLAMA | {"num_hidden_layers": -1}).encode(),
    "zero": json.dumps(LLAMA | {"num_attention_heads": 0}).encode(),
    "null": json.dumps(LLAMA | {"vocab_size": None}).encode(),
    "beyond reason": json.dumps(LLAMA | {"num_hidden_layers": 10**15}).encode(),
    "heads that do not divide": json.dumps(LLAMA | {"num_attention_heads": 5}).encode(),
    "key-value heads that do not divide": json.dumps(LLAMA | {"num_key_value_heads": 3}).encode(),
    "rotary factor of the wrong type": json.dumps(
        LLAMA | {"model_type": "phi", "rope_parameters": {"partial_rotary_factor": "half"}}
    ).encode(),
    "rate above one": json.dumps(LLAMA | {"attention_dropout": 7}).encode(),
    "rotary layers of another depth": json.dumps(LLAMA | {"model_type": "smollm3", "no_rope_layers": [1]}).encode(),
    "layer types of another depth": json.dumps(LLAMA | {"model_type": "qwen2", "layer_types": ["full"]}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("content", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_bad_config_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)

    with pytest.raises(ModelError) as refusal:
        resolve(str(path))
    assert "\n" not in str(refusal.value)
    assert refusal.value.hint


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | {"hidden_size": "32"}))

    with pytest.raises(ModelError, match="hidden_size"):
        resolve(str(path))


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.data(),
    st.none() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3),
)
def test_any_value_is_laid_out_or_refused(model_type: str, data: st.DataObject, value: Any) -> None:
    fields = family_of(model_type).configs[model_type].__struct_encode_fields__
    field = data.draw(st.sampled_from([name for name in fields if name != "model_type"]))
    try:
        layout = lay_out({"model_type": model_type, field: value})
    except MemprofError:
        return
    assert all(stage.count > 0 and stage.numel >= 0 for stage in layout.stages)


def test_an_unknown_name_lists_close_ones() -> None:
    with pytest.raises(ModelError, match=r"llama-3\.1-8b"):
        resolve("llama-3.1-8bb")


def test_an_unknown_hub_id_says_that_memprof_is_offline() -> None:
    with pytest.raises(ModelError, match="looked up only online"):
        resolve("somebody/something-new")


def test_a_folder_without_a_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no config"):
        resolve(str(tmp_path))


def test_a_safetensors_file_alone_says_what_it_needs(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors")

    with pytest.raises(ModelError, match="needs its config"):
        resolve(str(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("package.module:factory", True),
        ("module:factory", True),
        ("llama-13b", False),
        ("org/name", False),
        ("C:\\models\\x", False),
        ("a:b:c", False),
        ("module:", False),
        ("module:fac-tory", False),
    ],
)
def test_factories_are_recognised(name: str, expected: bool) -> None:
    assert is_factory(name) is expected


def test_a_factory_is_left_to_the_trace_engine() -> None:
    with pytest.raises(UnsupportedError, match="trace engine"):
        resolve("os.path:join")


def test_the_hub_is_asked_only_online_and_only_for_ids_that_the_catalog_lacks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(folder / "config.json")

    monkeypatch.setitem(sys.modules, "huggingface_hub", fake_hub(download))
    assert resolve("gpt2", online=True).model_type == "gpt2"
    assert asked == []

    model = resolve("somebody/something-new", online=True)
    assert (model.model_type, model.hf_id) == ("llama", "somebody/something-new")
    assert asked == [("somebody/something-new", "config.json")]


def test_a_hub_that_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str) -> str:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "huggingface_hub", fake_hub(download))
    with pytest.raises(ModelError, match=r"ConnectionError.*; check the id"):
        resolve("somebody/something-new", online=True)


def test_without_the_hub_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(ModelError, match=r"memprof-gpu\[torch\]"):
        resolve("somebody/something-new", online=True)


def fake_hub(download: Any) -> ModuleType:
    hub = ModuleType("huggingface_hub")
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    hub.errors = SimpleNamespace(HfHubHTTPError=RuntimeError)  # type: ignore[attr-defined]
    return hub

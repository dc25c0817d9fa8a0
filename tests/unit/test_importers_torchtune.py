"""torchtune's builders: each stands for the model of the catalog that has as many parameters as it builds.

The counts are of the modules that torchtune's own builders make on the meta device, at
https://github.com/pytorch/torchtune/tree/bd2a0fc7c31430972728494fa01aaeeb0ebf1ba1/torchtune/models
"""

from __future__ import annotations

import pytest

from memprof.catalog.resolve import resolve
from memprof.importers.documents import Document
from memprof.importers.reader import Reader
from memprof.importers.torchtune_model import MODELS, model

BUILT = {
    "gemma.gemma_2b": 2_506_172_416,
    "gemma.gemma_7b": 8_537_680_896,
    "gemma2.gemma2_27b": 27_227_128_320,
    "gemma2.gemma2_2b": 2_614_341_888,
    "gemma2.gemma2_9b": 9_241_705_984,
    "llama2.llama2_13b": 13_015_864_320,
    "llama2.llama2_70b": 68_976_648_192,
    "llama2.llama2_7b": 6_738_415_616,
    "llama3.llama3_70b": 70_553_706_496,
    "llama3.llama3_8b": 8_030_261_248,
    "llama3_1.llama3_1_405b": 405_853_388_800,
    "llama3_1.llama3_1_70b": 70_553_706_496,
    "llama3_1.llama3_1_8b": 8_030_261_248,
    "llama3_2.llama3_2_1b": 1_235_814_400,
    "llama3_2.llama3_2_3b": 3_212_749_824,
    "llama3_3.llama3_3_70b": 70_553_706_496,
    "mistral.mistral_7b": 7_241_732_096,
    "phi3.phi3_mini": 3_821_079_552,
    "phi4.phi4_14b": 14_659_507_200,
    "qwen2.qwen2_0_5b": 494_032_768,
    "qwen2.qwen2_1_5b": 1_543_714_304,
    "qwen2.qwen2_7b": 7_615_616_512,
    "qwen2_5.qwen2_5_0_5b": 494_032_768,
    "qwen2_5.qwen2_5_14b_base": 14_770_033_664,
    "qwen2_5.qwen2_5_14b_instruct": 14_770_033_664,
    "qwen2_5.qwen2_5_1_5b_base": 1_543_714_304,
    "qwen2_5.qwen2_5_1_5b_instruct": 1_543_714_304,
    "qwen2_5.qwen2_5_32b_base": 32_763_876_352,
    "qwen2_5.qwen2_5_32b_instruct": 32_763_876_352,
    "qwen2_5.qwen2_5_3b": 3_085_938_688,
    "qwen2_5.qwen2_5_72b_base": 72_706_203_648,
    "qwen2_5.qwen2_5_72b_instruct": 72_706_203_648,
    "qwen2_5.qwen2_5_7b_base": 7_615_616_512,
    "qwen2_5.qwen2_5_7b_instruct": 7_615_616_512,
    "qwen3.qwen3_0_6b_base": 596_049_920,
    "qwen3.qwen3_0_6b_instruct": 596_049_920,
    "qwen3.qwen3_14b_base": 14_768_307_200,
    "qwen3.qwen3_14b_instruct": 14_768_307_200,
    "qwen3.qwen3_1_7b_base": 1_720_574_976,
    "qwen3.qwen3_1_7b_instruct": 1_720_574_976,
    "qwen3.qwen3_32b": 32_762_123_264,
    "qwen3.qwen3_4b_base": 4_022_468_096,
    "qwen3.qwen3_4b_instruct": 4_022_468_096,
    "qwen3.qwen3_8b_base": 8_190_735_360,
    "qwen3.qwen3_8b_instruct": 8_190_735_360,
    "smol.smollm2_135m": 134_515_008,
    "smol.smollm2_1_7b": 1_711_376_384,
    "smol.smollm2_360m": 361_821_120,
}


def chosen(builder: str) -> str:
    reader = Reader(Document(path="x", data={"model": {"_component_": f"torchtune.models.{builder}"}}, lines={}), "x")
    model(reader)
    setting = reader.done().setting("model")
    assert setting is not None
    return str(setting.value)


@pytest.mark.parametrize("builder", BUILT)
def test_a_builder_stands_for_the_model_that_has_its_parameters(builder: str) -> None:
    assert resolve(chosen(builder)).num_parameters == BUILT[builder]


@pytest.mark.parametrize("family", ["lora_", "qlora_", ""])
def test_what_a_builder_adds_does_not_change_its_model(family: str) -> None:
    assert chosen(f"qwen3.{family}qwen3_8b_instruct") == "qwen3-8b"


@pytest.mark.parametrize("name", sorted(set(MODELS.values())))
def test_every_model_that_a_builder_stands_for_is_in_the_catalog(name: str) -> None:
    assert resolve(name).name == name

"""Names: what finds a model, and that no two entries claim the same one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.catalog import names
from memprof.catalog.toml_files import parse, texts

CATALOG = names.entries()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-13b", "llama-13b"),
        ("LLaMA-13B", "llama-13b"),
        ("Llama 2 7B", "llama-2-7b"),
        ("  gpt2 ", "gpt2"),
        ("phi-1_5", "phi-1.5"),
        ("META-LLAMA/llama-3.1-8b", "llama-3.1-8b"),
        ("Meta-Llama-3-8B", "llama-3-8b"),
        ("NousResearch/Llama-2-70b-hf", "llama-2-70b"),
        ("google/gemma-2-2b-it", "gemma-2-2b"),
        ("Megatron bert/bert_mcore_tp1_pp2", "megatron-bert-345m"),
        ("nousresearch/meta-llama-3-8b-instruct", "llama-3-8b"),
        ("unsloth/Llama-3.2-1B", "llama-3.2-1b"),
        ("agentica-org/DeepCoder-14B-Preview", "deepseek-r1-distill-qwen-14b"),
        ("TinyLlama/TinyLlama_v1.1", "tinyllama-1.1b"),
        ("Qwen/Qwen2-1.5B-Instruct", "qwen2-1.5b"),
    ],
)
def test_a_name_finds_its_entry(name: str, expected: str) -> None:
    entry = names.find(name)

    assert entry is not None
    assert entry.name == expected


# Spellings under which published measurements name their models.
PUBLISHED = (
    "Llama-3.1-8B", "Llama-3-8B", "Llama-3.2-3B", "phi-1.5 1.3B", "Llama 2 7B", "StableLM Alpha 3B", "Llama 2 13B",
    "CodeLlama 34B", "Qwen3-1.7B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen2.5-7B-Instruct", "Yi-34B", "Meta-Llama-3-8B",
    "mistralai/Mistral-7B-v0.1", "NousResearch/Llama-2-70b-hf", "bigcode/gpt_bigcode-santacoder", "ibm/PowerLM-3b",
    "meta-llama/Meta-Llama-3-8B", "Megatron bert/bert_mcore_tp2_pp2", "Megatron bert/bert_mcore_tp2_pp2_local_spec",
    "Megatron bert/bert_mcore_tp2_pp2_resume_torch_dist", "Megatron bert/bert_mcore_tp4_pp1",
    "Megatron gpt/gpt3_7b_tp1_pp4_memory_speed", "Megatron gpt/gpt3_7b_tp4_pp1_memory_speed",
    "Megatron t5/t5_11b_mcore_tp4_pp1", "NousResearch/Llama-2-13b-hf", "NousResearch/Llama-2-7b-hf",
    "stablecode-completion-alpha-3b", "Qwen/Qwen3-4B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "google/gemma-2-2b-it", "cerebras/Cerebras-GPT-111M", "facebook/opt-125m", "facebook/opt-350m",
    "distilbert/distilgpt2", "EleutherAI/gpt-neo-125M", "T5-small", "google-t5/t5-small",
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_of_published_measurements_are_known(name: str) -> None:
    assert names.find(name) is not None


def test_only_the_file_that_holds_the_name_is_parsed() -> None:
    names._parse.cache_clear()
    names.find("llama-13b")

    assert names._parse.cache_info().currsize == 1


@pytest.mark.parametrize(
    "name",
    ["", "llama", "llama-13", "nobody/llama-13b", "llama-13b-extra", '"', "source", "copied", "DeepCoder-14B-Preview"],
)
def test_what_is_no_name_finds_nothing(name: str) -> None:
    assert names.find(name) is None


@given(st.sampled_from(CATALOG), st.randoms(use_true_random=False))
def test_the_case_of_letters_does_not_matter(entry: names.Entry, random) -> None:  # type: ignore[no-untyped-def]
    spelled = "".join(random.choice((letter.upper(), letter.lower())) for letter in entry.hf_id or entry.name)

    assert names.find(spelled) == entry


def test_no_two_entries_claim_a_name() -> None:
    claims = Counter(spelling for entry in CATALOG for spelling in set(entry.spellings()))

    assert [spelling for spelling, count in claims.items() if count > 1] == []


def test_every_spelling_finds_its_entry() -> None:
    lost = [spelling for entry in CATALOG for spelling in entry.spellings() if names.find(spelling) != entry]

    assert lost == []


def test_every_copy_is_somebody_elses_and_its_source_is_named() -> None:
    for text in texts("models"):
        file = parse(text)
        sources = file.get("copied", {})
        copies = {copy: entry["hf_id"] for entry in file["model"] for copy in entry.get("copies", ())}

        assert {copy.partition("/")[0] for copy in copies} == sources.keys()
        assert all(source.startswith("https://") for source in sources.values())
        assert [copy for copy, of in copies.items() if copy.partition("/")[0] == of.partition("/")[0]] == []


@pytest.mark.parametrize(
    "name",
    ["unsloth/llama-3-8b-bnb-4bit", "canopylabs/orpheus-3b-0.1-pretrained", "TechxGenus/Meta-Llama-3-8B-Instruct-AWQ"],
)
def test_what_was_quantized_or_has_another_vocabulary_is_no_copy(name: str) -> None:
    assert names.find(name) is None


def test_the_catalog_is_large_and_every_entry_is_sourced() -> None:
    assert len(CATALOG) >= 70
    assert [entry.name for entry in CATALOG if not entry.source.startswith("https://")] == []


def test_names_are_sorted_lower_case_short_names() -> None:
    listed = names.names()

    assert listed == sorted(listed)
    assert [name for name in listed if name != names.normal(name) or "/" in name] == []


def test_close_names_come_closest_first_and_five_at_most() -> None:
    assert names.close("llama-3.1-8")[0] == "llama-3.1-8b"
    assert names.close("gpt2-x1")[0] == "gpt2-xl"
    assert names.close("somebody/lama-3.1-8b")[0] == "llama-3.1-8b"
    assert len(names.close("llama")) == 5


@pytest.mark.parametrize("name", ["axolotl-ai-co/Mistral-Small-4-119B-2603-BF16", "Qwen/Qwen3-Next-80B-A3B-Instruct"])
def test_close_names_are_of_the_same_family(name: str) -> None:
    family = name.rpartition("/")[2][:4].lower()

    assert names.close(name)
    assert [close for close in names.close(name) if not close.startswith(family)] == []


@pytest.mark.parametrize("name", ["zzzzzzzzzzzz", "mosaicml/mpt-7b", "saves/full/sft", ""])
def test_a_family_that_the_catalog_lacks_has_no_close_names(name: str) -> None:
    assert names.close(name) == []

"""Hugging Face architectures in sizes that train on a CPU in well under a second: configs, random weights, no hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import transformers

Batch = dict[str, torch.Tensor]

VOCAB = 503
LABELS = 7
_TOKENS = {"vocab_size": VOCAB, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
_MODEL = _TOKENS | {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
}
_GROUPED = _MODEL | {"num_key_value_heads": 2, "use_cache": False}
_IMAGE = {"image_size": 64, "num_channels": 3, "num_labels": LABELS}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        name: of the entry; the ``model_type`` of its config.
        settings: what the config is made of.
        auto_class: of ``transformers``, whose ``from_config`` builds the model.
        make_batch: real, valid inputs with labels, given (seed, config).
        lora_targets: what PEFT adapts; ``all-linear`` but where a model has other layers that suit.
    """

    name: str
    settings: dict[str, Any] = dataclasses.field(compare=False)
    auto_class: str
    make_batch: Callable[[torch.Generator, Any], Batch]
    lora_targets: tuple[str, ...] = ("all-linear",)

    def config(self) -> Any:
        return transformers.CONFIG_MAPPING[self.name](**self.settings)

    def build(self, dtype: torch.dtype, **options: Any) -> Any:
        """The model with random weights, in training mode."""
        return getattr(transformers, self.auto_class).from_config(self.config(), dtype=dtype, **options).train()

    def batch(self, seed: int = 0) -> Batch:
        return self.make_batch(torch.Generator().manual_seed(seed), self.config())


# ---- batches ----


def text(generator: torch.Generator, config: Any, batch: int = 3, length: int = 96) -> Batch:
    """Every token counts: what most examples of causal and masked language models train on."""
    ids = torch.randint(4, VOCAB, (batch, length), generator=generator)
    return {"input_ids": ids, "labels": ids.clone()}


def padded_text(generator: torch.Generator, config: Any) -> Batch:
    """Sentences of unequal lengths, padded on the right."""
    batch = text(generator, config)
    lengths = torch.tensor([[96], [61], [40]])
    mask = (torch.arange(96) < lengths).long()
    batch["labels"] = batch["labels"].masked_fill(mask == 0, -100)
    return batch | {"attention_mask": mask}


def sentences(generator: torch.Generator, config: Any) -> Batch:
    """One label each."""
    batch = padded_text(generator, config)
    return batch | {"labels": torch.randint(0, 2, (3,), generator=generator)}


def pairs(generator: torch.Generator, config: Any) -> Batch:
    """Source and target texts of different lengths."""
    labels = text(generator, config, length=48)["labels"]
    return {"input_ids": text(generator, config, length=80)["input_ids"], "labels": labels}


def images(generator: torch.Generator, config: Any) -> Batch:
    return {
        "pixel_values": torch.randn(4, 3, 64, 64, generator=generator),
        "labels": torch.randint(0, LABELS, (4,), generator=generator),
    }


def speech(generator: torch.Generator, config: Any) -> Batch:
    """Waveforms of a quarter of a second, and a class each."""
    return {
        "input_values": torch.randn(3, 4000, generator=generator),
        "labels": torch.randint(0, LABELS, (3,), generator=generator),
    }


def transcribed(generator: torch.Generator, config: Any) -> Batch:
    """Waveforms and the characters spoken in them, for a CTC loss."""
    return speech(generator, config) | {"labels": torch.randint(4, 32, (3, 10), generator=generator)}


def spectrograms(generator: torch.Generator, config: Any) -> Batch:
    """Log-mel features and the text spoken in them."""
    frames = 2 * config.max_source_positions
    return {
        "input_features": torch.randn(3, config.num_mel_bins, frames, generator=generator),
        "labels": torch.randint(4, VOCAB, (3, 32), generator=generator),
    }


# ---- architectures ----

_CAUSAL = "AutoModelForCausalLM"
_MASKED = "AutoModelForMaskedLM"
_SEQ2SEQ = "AutoModelForSeq2SeqLM"
_CLASSES = "AutoModelForSequenceClassification"
_IMAGES = "AutoModelForImageClassification"

DECODERS = (
    Entry("llama", _GROUPED, _CAUSAL, text),
    Entry("qwen2", _GROUPED, _CAUSAL, text, ("q_proj", "v_proj")),
    Entry("qwen3", _GROUPED | {"head_dim": 32}, _CAUSAL, padded_text),
    Entry("mistral", _GROUPED | {"sliding_window": 32}, _CAUSAL, text),
    Entry("gemma2", _GROUPED | {"head_dim": 24, "sliding_window": 32}, _CAUSAL, text),
    Entry(
        "gemma3_text",
        _GROUPED | {"head_dim": 24, "sliding_window": 32, "num_hidden_layers": 4, "sliding_window_pattern": 2},
        _CAUSAL,
        padded_text,
    ),
    Entry("phi3", _GROUPED, _CAUSAL, text),
    Entry("gpt2", _TOKENS | {"n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 256}, _CAUSAL, text),
    Entry(
        "gpt_neo",
        _TOKENS
        | {
            "hidden_size": 96,
            "num_layers": 4,
            "num_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": 256,
            "window_size": 32,
            "attention_types": [[["global", "local"], 2]],
        },
        _CAUSAL,
        text,
    ),
    Entry("gpt_neox", _MODEL, _CAUSAL, text),
    Entry("opt", _MODEL | {"ffn_dim": 256, "word_embed_proj_dim": 96}, _CAUSAL, padded_text),
    Entry("bloom", _TOKENS | {"hidden_size": 96, "n_layer": 3, "n_head": 4}, _CAUSAL, text),
    Entry("falcon", _MODEL, _CAUSAL, text),
)

MIXTURES = (
    Entry(
        "mixtral", _GROUPED | {"num_local_experts": 4, "intermediate_size": 128}, _CAUSAL, text,
        ("q_proj", "k_proj", "v_proj", "o_proj"),
    ),
    Entry(
        "qwen3_moe",
        _GROUPED | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 24},
        _CAUSAL,
        text,
    ),
    Entry(
        "deepseek_v3",
        _GROUPED
        | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 64,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 48,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 16,
            "v_head_dim": 24,
        },
        _CAUSAL,
        text,
    ),
)  # fmt: skip

ENCODERS = (
    Entry("bert", _MODEL, _MASKED, padded_text),
    Entry("roberta", _MODEL, _CLASSES, sentences),
    Entry(
        "distilbert",
        _TOKENS | {"dim": 96, "n_layers": 3, "n_heads": 4, "hidden_dim": 256, "max_position_embeddings": 256},
        _MASKED,
        text,
    ),
    Entry(
        "deberta-v2",
        _MODEL
        | {
            "relative_attention": True,
            "position_buckets": 32,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
        _MASKED,
        padded_text,
    ),
    Entry("electra", _MODEL | {"embedding_size": 48}, _CLASSES, sentences),
    Entry("modernbert", _MODEL | {"num_hidden_layers": 4, "local_attention": 32}, _MASKED, padded_text),
)

PAIRED = (
    Entry(
        "t5",
        _TOKENS
        | {
            "d_model": 96,
            "d_kv": 24,
            "d_ff": 256,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 1,
        },
        _SEQ2SEQ,
        pairs,
    ),
    Entry(
        "bart",
        _TOKENS
        | {
            "d_model": 96,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "decoder_ffn_dim": 256,
            "max_position_embeddings": 256,
            "forced_eos_token_id": 3,
        },
        _SEQ2SEQ,
        pairs,
    ),
    Entry(
        "whisper",
        _TOKENS
        | {
            "d_model": 96,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "decoder_ffn_dim": 256,
            "num_mel_bins": 32,
            "max_source_positions": 100,
            "max_target_positions": 64,
            "decoder_start_token_id": 2,
        },
        "AutoModelForSpeechSeq2Seq",
        spectrograms,
        ("q_proj", "v_proj"),
    ),
)

VISION = (
    Entry(
        "vit",
        _IMAGE
        | {
            "patch_size": 8,
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 256,
        },
        _IMAGES,
        images,
    ),
    Entry(
        "swin",
        _IMAGE | {"patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        _IMAGES,
        images,
    ),
    Entry(
        "dinov2",
        _IMAGE
        | {
            "patch_size": 8,
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "drop_path_rate": 0.1,
        },
        _IMAGES,
        images,
    ),
)

CONVOLUTIONAL = (
    Entry(
        "resnet",
        _IMAGE | {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]},
        _IMAGES,
        images,
        ("convolution",),
    ),
    Entry(
        "convnext",
        _IMAGE | {"hidden_sizes": [24, 48], "depths": [2, 2], "num_stages": 2, "drop_path_rate": 0.1},
        _IMAGES,
        images,
        ("pwconv1", "pwconv2"),
    ),
    Entry(
        "convnextv2",
        _IMAGE | {"hidden_sizes": [24, 48], "depths": [2, 2], "num_stages": 2, "drop_path_rate": 0.1},
        _IMAGES,
        images,
        ("pwconv1", "pwconv2"),
    ),
    Entry(
        "regnet",
        _IMAGE | {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "groups_width": 16},
        _IMAGES,
        images,
        ("attention.0", "attention.2"),
    ),
)

_WAVES = {
    "vocab_size": 32,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "conv_dim": [32, 32, 32],
    "conv_stride": [5, 4, 2],
    "conv_kernel": [10, 8, 4],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_labels": LABELS,
    "classifier_proj_size": 48,
}

SPEECH = (
    Entry("wav2vec2", _WAVES | {"ctc_zero_infinity": True}, "AutoModelForCTC", transcribed),
    Entry("hubert", _WAVES, "AutoModelForAudioClassification", speech, ("q_proj", "v_proj")),
)

STATE_SPACE = (
    Entry(
        "mamba",
        _TOKENS | {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "use_cache": False},
        _CAUSAL,
        lambda generator, config: text(generator, config, batch=2, length=24),
        ("in_proj", "x_proj"),
    ),
    Entry(
        "mamba2",
        _TOKENS
        | {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "state_size": 16,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 2,
            "chunk_size": 16,
            "use_cache": False,
        },
        _CAUSAL,
        lambda generator, config: text(generator, config, batch=2, length=32),
        ("in_proj",),
    ),
)

ZOO: tuple[Entry, ...] = (
    *DECODERS, *MIXTURES, *ENCODERS, *PAIRED, *VISION, *CONVOLUTIONAL, *SPEECH, *STATE_SPACE,
)  # fmt: skip
BY_NAME = {entry.name: entry for entry in ZOO}

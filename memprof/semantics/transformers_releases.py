"""What transformers did otherwise in earlier releases, as far as it changes memory; one row a change.

Each row names the first release that does as the newest one does. Source: the wheels of the releases on both sides,
the file named beside each row; `memprof.semantics.attention_transformers` has the rows of the attention call itself.
"""

from __future__ import annotations

from memprof.semantics.device import Semantics

Release = tuple[int, int]

CACHE_COPIES_FIRST_KEYS: Release = (4, 56)
"""From then on a cache joins its first keys and values to empty ones, which copies; before, it kept what it was given.

Source: cache_utils.py of 4.55.4 (``DynamicLayer.update``) and 4.56.2 (``lazy_initialization``).
"""

TRAINER_TURNS_CACHE_OFF: Release = (5, 0)
"""Before, a decoder in training returned the keys and values of every layer, alive as long as its outputs.

Source: trainer.py of 4.57.6 and 5.0.0 (``self.model.config.use_cache = self.args.use_cache``).
"""

GEMMA2_EAGER: Release = (5, 22)
"""From then on soft caps make Gemma 2 attend eagerly by default; before, SDPA ran without them.

Source: models/gemma2/modeling_gemma2.py of 5.20.0 and 5.22.0 (``_supports_sdpa``).
"""

T5_ATTENTION_INTERFACE: Release = (5, 15)
"""Before, T5 attended eagerly: the mask was added to the position bias once a stack, and the sum to scores in place.

Source: models/t5/modeling_t5.py of 5.14.0 and 5.15.0 (``T5Attention.forward``).
"""

GPT2_WITHOUT_MASKS: Release = (5, 2)
"""Before, each attention of GPT-2 had a triangle of ``max_position_embeddings`` squared bools as a buffer.

Source: models/gpt2/modeling_gpt2.py of 5.0.0 and 5.2.0.
"""

OPT_ATTENTION_INTERFACE: Release = (4, 52)
"""Before, OPT called PyTorch's attention itself, without the copies of `attention_transformers.copies_inputs`.

Source: models/opt/modeling_opt.py of 4.51.3 (``OPTSdpaAttention``) and 4.52.4.
"""

CACHE_IS_AN_OBJECT: Release = (4, 36)
"""Before, a decoder's cache was a tuple: what a call was given lived on beside what it returned, of all layers.

Source: models/llama/modeling_llama.py and models/mistral/modeling_mistral.py of 4.35.2 and 4.36.2.
"""

GENERATE_DROPS_OUTPUTS: Release = (4, 42)
"""Before, ``generate`` kept a call's outputs, logits of all positions among them, until the next call returned.

Source: generation/utils.py of 4.41.2 and 4.42.4 (``del outputs``).
"""

LOGITS_ON_DEMAND: Release = (4, 45)
"""Before, logits were of all positions, in ``generate`` too, and became float32 even where no loss was computed.

Source: models/{llama,mistral,qwen2}/modeling_*.py of 4.44.2 and 4.45.2 (``num_logits_to_keep``).
"""

_CHANGED_ON_DEMAND = ("llama", "mistral", "qwen2")

_NO_CACHE_IN_TRAINING = ("gemma2",)
"""Source: 4.51.3, models/gemma2/modeling_gemma2.py: a cache is made if ``not self.training``."""


def trains_with_cache(sem: Semantics, model_type: str) -> bool:
    """Whether the outputs of a training step hold the keys and values of a decoder."""
    return sem.transformers < TRAINER_TURNS_CACHE_OFF and model_type not in _NO_CACHE_IN_TRAINING


def upcasts_all_logits(sem: Semantics, model_type: str) -> bool:
    """Whether inference computes logits of all positions, and float32 copies of them."""
    return sem.transformers < LOGITS_ON_DEMAND and model_type in _CHANGED_ON_DEMAND

"""What a family of models is: its config types, the heads it can carry, and its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import msgspec

from memprof.catalog.architectures.parts import Stages

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Depth = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]

LANGUAGE_HEADS = frozenset({"causal-lm", "masked-lm", "seq2seq-lm"})
CAUSAL_HEADS = ("causal-lm", "sequence-classification", "token-classification")
MASKED_HEADS = ("masked-lm", "sequence-classification", "token-classification")


class Config(msgspec.Struct, kw_only=True):
    """The part of a Hugging Face config that decides shapes, memory or kernels, with the library's own defaults.

    Subclasses carry one ``model_type`` each; ``__post_init__`` fills what the library derives from other values and
    raises ``ValueError`` where values contradict each other.
    """

    # Tasks whose head the layout knows and the library has a class for, the default first.
    heads: ClassVar[tuple[str, ...]]
    # Other spellings of a field, as the library's ``attribute_map`` has them.
    spellings: ClassVar[Mapping[str, str]] = {}

    model_type: str
    num_labels: Count = 2

    @property
    def shares_embedding(self) -> bool:
        """Whether a language head uses the input embedding as its weight."""
        return False


class LanguageConfig(Config, kw_only=True):
    tie_word_embeddings: bool = True

    @property
    def shares_embedding(self) -> bool:
        return self.tie_word_embeddings


class Family(msgspec.Struct, frozen=True):
    """Model types that share a layout.

    Attributes:
        configs: config type by ``model_type``.
        stages: the layout of a config (of one of those types) under a task.
    """

    configs: Mapping[str, type[Config]]
    stages: Callable[[Any, str], Stages]


def ties(config: Config, task: str) -> bool:
    """Whether the output head shares the input embedding: only a language head can."""
    return config.shares_embedding and task in LANGUAGE_HEADS


def per_head(width: int, heads: int, what: str = "hidden_size") -> int:
    """Channels of one head.

    Raises:
        ValueError: the width is not a multiple of the heads.
    """
    if width % heads:
        raise ValueError(f"{what} {width} is not a multiple of its {heads} attention heads")
    return width // heads


def rotated(head_width: int, factor: float, rope_parameters: Mapping[str, Any] | None) -> int:
    """Channels of a head that are rotated; ``rope_parameters`` is where newer configs keep the factor.

    Raises:
        ValueError: the factor there is not one.
    """
    factor = (rope_parameters or {}).get("partial_rotary_factor", factor)
    if not isinstance(factor, int | float) or not 0 <= factor <= 1:
        raise ValueError(f"rope_parameters.partial_rotary_factor is {factor!r}, not a number from 0 to 1")
    return int(head_width * factor)


def layer_types(given: list[str] | None, depth: int, is_sliding: Callable[[int], bool]) -> list[str]:
    """Attention kind of each layer: as given, else by the library's rule.

    Raises:
        ValueError: as many kinds as layers are needed.
    """
    if given is None:
        return ["sliding_attention" if is_sliding(layer) else "full_attention" for layer in range(depth)]
    if len(given) != depth:
        raise ValueError(f"layer_types names {len(given)} layers, num_hidden_layers is {depth}")
    return given

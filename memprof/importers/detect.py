"""Config files of other libraries, known by their keys, read into one ``Imported``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from memprof.errors import ConfigError, did_you_mean
from memprof.importers.combine import combine
from memprof.importers.documents import Document, read
from memprof.importers.imported import Imported
from memprof.importers.reader import Reader
from memprof.model.scenario import Scenario


class Kind(NamedTuple):
    """A kind of file: its module in this package, and keys of which one at the top tells it."""

    module: str
    signs: frozenset[str]


def _kind(module: str, signs: str) -> Kind:
    return Kind(module, frozenset(signs.split()))


KINDS: dict[str, Kind] = {
    "accelerate": _kind("accelerate", "distributed_type compute_environment"),
    "deepspeed": _kind("deepspeed", "zero_optimization train_micro_batch_size_per_gpu train_batch_size"),
    "axolotl": _kind("axolotl", "base_model"),
    "torchtitan": _kind("torchtitan", "job parallelism activation_checkpoint"),
    "llama-factory-v1": _kind(
        "llama_factory_v1",
        "model_class train_dataset dist_config peft_config kernel_config quant_config init_config optim_config"
        " batching_strategy sample_backend",
    ),
    "llama-factory": _kind("llama_factory", "finetuning_type stage cutoff_len template lora_rank dataset_dir"),
    "torchtune": _kind("torchtune", "checkpointer tokenizer"),
    "sft": _kind(
        "training_arguments",
        "max_length packing packing_strategy padding_free dataset_text_field assistant_only_loss completion_only_loss"
        " dataset_num_proc dataset_mixture dataset_mixer chat_template chat_template_path",
    ),
    "training-arguments": _kind(
        "training_arguments",
        "per_device_train_batch_size output_dir learning_rate num_train_epochs max_steps optim bf16 fp16"
        " gradient_accumulation_steps gradient_checkpointing deepspeed fsdp warmup_steps lr_scheduler_type",
    ),
}
"""In this order: a file is of the first kind that it has a sign of."""

_DEEPSPEED_KEYS: dict[str, tuple[str, ...]] = {
    "accelerate": ("deepspeed_config", "deepspeed_config_file"),
    "axolotl": ("deepspeed",),
    "llama-factory": ("deepspeed",),
    "llama-factory-v1": ("dist_config", "config_file"),
    "sft": ("deepspeed",),
    "training-arguments": ("deepspeed",),
}
"""Where a file names, or holds, a DeepSpeed config."""


def import_config(*files: str, root: str | None = None) -> Imported:
    """What the files say together: an accelerate config, a DeepSpeed config, training arguments, in any order.

    Args:
        files: paths, or ``kind:path`` where the keys do not tell.
        root: a folder that every file has to be in, those that a file names too; None for anywhere.

    Raises:
        ConfigError: a file that is broken or of no known kind, or files that contradict each other.
    """
    documents = [(kind, read(path, root=root)) for kind, path in map(_split, files)]
    readers = [Reader(document, kind or detect(document), root) for kind, document in documents]
    given = any(reader.kind == "deepspeed" for reader in readers)
    inner = [found for reader in readers if (found := _deepspeed_of(reader, given))]
    # Those that resolve what others leave open come first.
    return combine([_mapped(reader) for reader in sorted([*readers, *inner], key=_is_launcher)])


def _is_launcher(reader: Reader) -> bool:
    return reader.kind in ("accelerate", "deepspeed")


def _mapped(reader: Reader) -> Imported:
    import_module(f"memprof.importers.{KINDS[reader.kind].module}").read(reader)
    return reader.done()


def detect(document: Document) -> str:
    """The kind of a file, by its keys.

    Raises:
        ConfigError: it is of none, or a scenario of memprof's own.
    """
    keys = document.data.keys()
    if any(isinstance(value, dict) and "_component_" in value for value in document.data.values()):
        return "torchtune"
    for name, kind in KINDS.items():
        if keys & kind.signs:
            return name
    if keys <= set(Scenario.__struct_fields__):
        raise ConfigError(f"{document.path} is a scenario of memprof's own", "give it with --scenario")
    raise ConfigError(
        f"no key of {document.path} tells which library it is for", f"write kind:{document.path}; {_known()}"
    )


def _split(file: str) -> tuple[str | None, str]:
    kind, colon, path = file.partition(":")
    if not colon or Path(file).exists():
        return None, file
    if kind in KINDS:
        return kind, path
    if len(kind) < 2 or not kind.replace("-", "").isalpha():
        return None, file
    raise ConfigError(f"{kind!r} is no kind of config file", did_you_mean(kind, KINDS) or _known())


def _known() -> str:
    return f"the kinds are {', '.join(KINDS)}"


def _deepspeed_of(reader: Reader, given: bool) -> Reader | None:
    """The DeepSpeed config that a file holds, or names; None where there is none or it is given on its own.

    Raises:
        ConfigError: a name of no file.
    """
    keys = _DEEPSPEED_KEYS.get(reader.kind, ())
    value: Any = reader.get(*keys) if keys else None
    if value is None or given:
        return None
    if isinstance(value, dict):
        within = msgspec.structs.replace(reader.document, data=value)
        return Reader(within, "deepspeed", reader.root, above=keys)
    document = reader.follow(*keys)
    if document is None:
        raise ConfigError(
            f"{reader.where(*keys)}: {'.'.join(keys)} {value} is not there",
            "run memprof in the folder that this path starts from, or give the file with --from too",
        )
    return Reader(document, "deepspeed", reader.root)

"""From what a user writes to an Architecture: a path, a catalog name, or a hub id.

Nothing that is named is ever run: a config is data, a checkpoint is its header, and no remote code is fetched.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from memprof.catalog import names
from memprof.catalog.architectures import lay_out
from memprof.errors import ModelError, UnsupportedError
from memprof.model.architecture import Architecture

if TYPE_CHECKING:
    from pathlib import Path

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z")
_MAX_CONFIG_BYTES = 16 << 20


def resolve(name: str, task: str | None = None, online: bool = False) -> Architecture:
    """The architecture that a name means: a path that exists, else a catalog name or hub id, else (online) the hub's.

    Args:
        name: a config.json, a model folder, a .safetensors beside its config.json, a short name, or a hub id.
        task: the head; None for the model's own.
        online: whether a hub id that the catalog lacks may be looked up on the hub.

    Raises:
        ModelError: no such model, or a file that cannot be believed.
        UnsupportedError: a factory, or a head that the model does not have.
    """
    if is_factory(name):
        raise UnsupportedError(f"{name} is a factory, which has to be run to be known", "use the trace engine")
    path = os.path.expanduser(name)
    if os.path.isfile(path) or os.path.isfile(os.path.join(path, "config.json")):
        return _from_path(name, path, task)
    entry = names.find(name)
    if entry is not None:
        return _architecture(entry.config, task or entry.task, name=entry.name, hf_id=entry.hf_id, source=entry.source)
    if os.path.exists(path):
        raise ModelError(f"{name} holds no config.json", "give the folder that save_pretrained wrote")
    if online and _HUB_ID.match(name):
        return _from_hub(name, task)
    raise _unknown(name, online)


def find_config(name: str, online: bool = False) -> tuple[dict[str, Any], str | None]:
    """A model's config as it stands, of any type that transformers may know, and the catalog's task for it.

    Raises:
        ModelError: no such model, or a file that cannot be believed.
    """
    from pathlib import Path

    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").is_file():
        return _read_config(path / "config.json"), None
    if path.is_file():
        return _read_config(path.with_name("config.json") if path.suffix == ".safetensors" else path), None
    entry = names.find(name)
    if entry is not None:
        layout = lay_out(entry.config, entry.task)
        return layout.config, layout.task
    if online and _HUB_ID.match(name):
        return _hub_config(name), None
    raise _unknown(name, online)


def is_factory(name: str) -> bool:
    """Whether a name has the form ``package.module:factory``."""
    return _FACTORY.match(name) is not None


def _architecture(config: dict[str, Any], task: str | None, **about: Any) -> Architecture:
    layout = lay_out(config, task)
    return Architecture(
        model_type=layout.config["model_type"],
        task=layout.task,
        config=layout.config,
        stages=layout.stages,
        tied=layout.tied,
        **about,
    )


def _from_path(name: str, found: str, task: str | None) -> Architecture:
    from pathlib import Path

    from memprof.catalog import checkpoint

    dtypes = None
    config = path = Path(found)
    if path.is_dir():
        config, dtypes = path / "config.json", checkpoint.folder_dtypes(path)
    elif path.suffix == ".safetensors":
        config, dtypes = path.with_name("config.json"), checkpoint.file_dtypes(path)
    return _architecture(
        _read_config(config), task, name=name, hf_id=None, checkpoint_dtypes=dtypes, source=str(config)
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelError(f"{path} is too large for a config.json", "give the config.json of a transformers model")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "a checkpoint needs its config.json beside it") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is not a model's config.json ({error})", "download the file again") from None


def _from_hub(name: str, task: str | None) -> Architecture:
    source = f"https://huggingface.co/{name}/blob/main/config.json"
    return _architecture(_hub_config(name), task, name=name, hf_id=name, source=source)


def _hub_config(name: str) -> dict[str, Any]:
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise ModelError(
            f"{name} is not in the catalog, and looking on the hub needs huggingface_hub",
            "pip install 'memprof-gpu[torch]'",
        ) from None
    from pathlib import Path

    try:
        return _read_config(Path(hf_hub_download(name, "config.json")))
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = type(error).__name__
        raise ModelError(f"the hub did not give {name}'s config.json ({reason})", "check the id and access") from None


def _unknown(name: str, online: bool) -> ModelError:
    hints = []
    if close := names.close(name):
        hints.append(f"did you mean {', '.join(close)}?")
    if _HUB_ID.match(name) and not online:
        hints.append("a hub id that the catalog lacks is looked up only online")
    hints.append("give a config.json or see `memprof models`")
    return ModelError(f"no model is called {name!r}", "; ".join(hints))

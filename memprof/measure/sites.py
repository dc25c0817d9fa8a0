"""What a stack tells about an allocation: operator, module, source line, phase and, where it settles it, the use.

Python stacks are recorded by default; with ``stacks="all"`` C++ frames stand between them.

Known limitations: class names are not recorded, so a module is named by the file and line of its ``forward``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from memprof.measure.recording import UNKNOWN, Site
from memprof.measure.snapshot_pickle import Frame, Stack
from memprof.model.snapshot import FRAME_PREFIX
from memprof.model.timeline import Component

_ATEN = re.compile(r"at::_ops::(\w+)::(?:call|redispatch)")
_OPTIMIZER_FILE = re.compile(r"/(optim|optimizers)/|/ops/(adam|lion|adagrad)/|clip_grad\.py$")
_BACKWARD_SYMBOL = re.compile(r"torch::autograd::(Engine|AccumulateGrad|generated::\w+Backward)|THPEngine_run_backward")
_BACKWARD_FILE = re.compile(r"torch/autograd/(__init__|graph)\.py$")
_LOAD_FILE = re.compile(r"torch/nn/(init|parameter)\.py$|safetensors/|modeling_utils\.py$|model_loading\.py$")
_LOAD_FUNCTIONS = frozenset({"_apply", "to", "cuda", "convert", "to_empty", "reset_parameters", "load_state_dict"})
_TORCH_MODULE = re.compile(r"torch/nn/modules/")
_INSIDE_TORCH = re.compile(r"(^|/)torch/|^<")

# The first of these that any frame matches, as "file:function", settles what the block is for.
_SETTLED: tuple[tuple[re.Pattern[str], Component], ...] = (
    (re.compile(r"[Bb]las(Lt)?Workspace|getCurrentCUDABlasHandle|getNewWorkspace"), Component.WORKSPACE),
    (re.compile(r"AccumulateGrad"), Component.GRADIENTS),
    (
        re.compile(r"_fsdp_collectives\.py:|:(init|alloc)_all_gather_outputs|distributed_c10d\.py:|:c10d::"),
        Component.COMMUNICATION,
    ),
    (re.compile(r"cache_utils\.py:"), Component.KV_CACHE),
    (re.compile(r"torch/utils/data/|data_loader\.py:|:(_prepare_inputs?|send_to_device)$"), Component.INPUTS),
)


@lru_cache(maxsize=1 << 16)
def read_site(stack: Stack) -> Site:
    """What ``stack``, innermost frame first, tells."""
    if not stack:
        return UNKNOWN
    own = tuple(frame for frame in stack if not frame.filename.startswith(FRAME_PREFIX))
    told = {frame.filename.removeprefix(FRAME_PREFIX): frame.name for frame in stack if frame not in own}
    known = {name: text for name, text in told.items() if name in Site._fields}
    return _read(own)._replace(**known)


def _read(stack: Stack) -> Site:
    stack = tuple(frame._replace(filename=frame.filename.replace("\\", "/")) for frame in stack)
    python = [frame for frame in stack if _is_python(frame)]
    phase = _phase(stack, python)
    lines = [f"{frame.filename}:{frame.name}" for frame in stack]
    settled = (use for pattern, use in _SETTLED if any(pattern.search(line) for line in lines))
    component = next(settled, Component.WEIGHTS if phase == "load" else None)
    return Site(_op(stack, python), _module(python), _source(python), phase, component.value if component else "")


def _is_python(frame: Frame) -> bool:
    return "::" not in frame.name and (frame.filename.endswith(".py") or frame.filename.startswith("<"))


def _phase(stack: Stack, python: list[Frame]) -> str:
    if any(_OPTIMIZER_FILE.search(frame.filename) for frame in python):
        return "optimizer"
    if any(_BACKWARD_SYMBOL.search(frame.name) for frame in stack):
        return "backward"
    if any(_BACKWARD_FILE.search(frame.filename) for frame in python):
        return "backward"
    if any(_function(frame) == "forward" for frame in python):
        return "forward"
    if any(_LOAD_FILE.search(frame.filename) or _is_module_load(frame) for frame in python):
        return "load"
    return ""


def _is_module_load(frame: Frame) -> bool:
    loads = _function(frame) in _LOAD_FUNCTIONS or _function(frame) == "__init__"
    return loads and _TORCH_MODULE.search(frame.filename) is not None


def _op(stack: Stack, python: list[Frame]) -> str:
    for frame in stack:
        if match := _ATEN.search(frame.name):
            return match.group(1)
    return python[0].name if python else ""


def _module(python: list[Frame]) -> str:
    """``modeling_llama.py:155``, the forward that was running, and the torch module inside it: ``linear``."""
    inner = ""
    for frame in python:
        if _function(frame) != "forward":
            continue
        if not _TORCH_MODULE.search(frame.filename):
            own = f"{_basename(frame)}:{frame.line}"
            return f"{own} {inner}".rstrip()
        inner = inner or _basename(frame).removesuffix(".py")
    return inner


def _source(python: list[Frame]) -> str:
    frame = next((frame for frame in python if not _INSIDE_TORCH.search(frame.filename)), None)
    return f"{_basename(frame)}:{frame.line} {frame.name}" if frame else ""


def _function(frame: Frame) -> str:
    """The bare name: some layouts write ``LlamaMLP.forward``."""
    return frame.name.rpartition(".")[2]


def _basename(frame: Frame) -> str:
    return frame.filename.rpartition("/")[2]

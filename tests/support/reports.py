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


@cache
def values() -> dict[str, tuple[Any, ...]]:
    """What each kind of report is on."""
    other = estimate("llama-3.1-8b-inference-l4")
    return {
        "estimate": (estimate(),),
        "snapshot": (analyse(TAPES / "gpu_tinyllama1.1b_int8_lora_ckpt.tape.json.gz"),),
        "out of memory": (analyse(TAPES / "a100_gnn_oom_expandable.tape.json.gz"),),
        "comparison": (compare(estimate(), other, ("a.json", "b.json")),),
        "several": (estimate(), other),
    }

"""The container's files, without an engine to build them: the scripts run beside tools that write down their calls."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DIGEST = "sha256:" + "0123456789abcdef" * 4
TOOL = f"""\
#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
password = sys.stdin.read() if "--password-stdin" in sys.argv else None
with open(os.environ["CALLS"], "a") as calls:
    call = [name, *sys.argv[1:]], password, os.environ.get("DOCKER_CONFIG")
    calls.write(json.dumps(dict(zip(("command", "password", "folder"), call))) + "\\n")
print(os.environ.get("SAYS_" + name.replace("-", "_"), ""))
sys.exit(name in os.environ.get("FAILS", "").split())
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs bash")


class Tools:
    """Commands that only write down how they were called, print what ``SAYS_name`` holds, and fail if told to."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.log, self.folder = folder / "calls", folder / "tools"
        self.folder.mkdir()
        for name in names:
            (self.folder / name).write_text(TOOL)
            (self.folder / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.folder), os.environ["PATH"]])
        given = {"PATH": path, "CALLS": str(self.log), "HOME": str(self.folder), **environment}
        command = [DOCKER / script, *arguments]
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def commands(self) -> list[str]:
        return [" ".join(call["command"]) for call in self.calls]


def versions(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DOCKER / "versions.py", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--torch 2.13.0 --cuda 13.0.2", "torch 2.13.0 is built for CUDA 13.0.2: sm_90, sm_100, sm_120"),
        ("--torch 2.13.0 --cuda 12.6.3 --index-root x --architecture sm_90", "torch 2.13.0 is built for CUDA 12.6.3"),
        ("--torch 2.13.0 --cuda 13.0.2 --architecture sm_103", "torch 2.13.0 is built for CUDA 13.0.2"),
    ],
)
def test_versions_that_go_together_are_said_to(arguments: str, told: str) -> None:
    done = versions("check", *arguments.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--torch 1.13.1 --cuda 11.7.1", "torch 1.13.1 has no row in docker/versions.py"),
        ("--torch 2.13.0 --cuda 12.8.1", "torch 2.13.0 is not built for CUDA 12.8.1; it is for 12.6, 13.0, 13.2"),
        ("--torch 2.13.0 --cuda 12.6.3", "the default package index holds torch 2.13.0 for CUDA 13.0 only"),
        ("--torch 2.13.0 --cuda 12.6.3 --index-root x --architecture sm_100", "has no kernels for sm_100"),
        ("--torch 2.13.0 --cuda 13.0.2 --architecture sm_86", "has no kernels for sm_86"),
        ("--torch 2.13.0 --cuda latest", "'latest' is not a version"),
    ],
)
def test_versions_that_do_not_are_refused_in_one_line(arguments: str, told: str) -> None:
    done = versions("check", *arguments.split())
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_image_of_the_matrix_passes_the_check() -> None:
    for root in ("", "somewhere"):
        listed = json.loads(versions("matrix", "--index-root", root).stdout)["include"]
        for image in listed:
            done = versions("check", "--torch", image["torch"], "--cuda", image["cuda"], "--index-root", root)
            assert done.returncode == 0, done.stderr
    assert len({(image["torch"], image["cuda"]) for image in listed}) == len(listed) > 3


def test_the_defaults_are_those_that_everything_else_is_tested_with() -> None:
    [torch] = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    dockerfile, build = ((DOCKER / name).read_text() for name in ("Dockerfile", "build.sh"))
    [cuda] = re.findall(r"^ARG CUDA_VERSION=(\S+)$", dockerfile, re.MULTILINE)
    assert f"ARG TORCH_VERSION={torch}\n" in dockerfile
    assert f"torch=${{TORCH_VERSION:-{torch}}}\n" in build
    assert f"cuda=${{CUDA_VERSION:-{cuda}}}\n" in build
    assert versions("check", "--torch", torch, "--cuda", cuda).returncode == 0


@pytest.mark.parametrize(("torch", "cuda"), [("2.12.1", "13.0.2"), ("2.13.0", "12.6.3")])
def test_the_pins_beside_another_torch_leave_out_what_torch_brings(torch: str, cuda: str) -> None:
    constraints = "click==1\ntorch==2.13.0\ntriton==3\nnvidia-cublas==4\nnvidia-ml-py==5\nsetuptools==6\n# torch\n"
    kept = versions("pins", "--torch", torch, "--cuda", cuda, text=constraints)
    assert kept.stdout == "click==1\nnvidia-ml-py==5\n# torch\n"
    assert versions("pins", "--torch", "2.13.0", "--cuda", "13.0.2", text=constraints).stdout == constraints


def test_a_torch_of_another_cuda_version_is_found_out() -> None:
    pytest.importorskip("torch")
    done = versions("installed", "--cuda", "10.2.89")
    assert done.returncode == 2
    assert "not for 10.2.89" in done.stderr


def test_the_image_gets_what_it_copies_and_runs_as_no_root() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    kept = [line.removeprefix("!") for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()]
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for path in copied.split():
            assert (ROOT / path).exists(), path
            assert any(fnmatch.fnmatch(path.partition("/")[0], pattern) for pattern in kept if pattern != "*"), path
    last = dockerfile.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["10001"]
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${BASE_IMAGE}"}


def test_the_build_pins_its_base_by_digest(tmp_path: Path) -> None:
    tools = Tools(tmp_path, "docker")
    done = tools.run("build.sh", SAYS_docker=DIGEST)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "memprof:torch2.13.0-cuda13.0.2\n"
    asked, built = tools.commands
    assert asked.startswith("docker buildx imagetools inspect")
    assert f"--build-arg BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04@{DIGEST} " in built


def test_a_digest_that_is_given_is_not_asked_for(tmp_path: Path) -> None:
    tools = Tools(tmp_path, "docker")
    assert tools.run("build.sh", BASE_DIGEST=DIGEST, IMAGE="mine:1").returncode == 0
    [built] = tools.commands
    assert "--tag mine:1 " in built
    assert DIGEST in built


@pytest.mark.parametrize("environment", [{"CUDA_VERSION": "12.8.1"}, {"BASE_DIGEST": "latest"}])
def test_nothing_is_built_from_what_does_not_go_together(tmp_path: Path, environment: dict[str, str]) -> None:
    tools = Tools(tmp_path, "docker")
    assert tools.run("build.sh", **environment).returncode == 2
    assert not tools.commands


@pytest.mark.parametrize(
    ("target", "asked", "user"),
    [
        (
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com/memprof:0.1.0",
            "aws ecr get-login-password --region eu-west-1",
            "AWS",
        ),
        (
            "europe-docker.pkg.dev/project/repository/memprof:0.1.0",
            "gcloud auth print-access-token",
            "oauth2accesstoken",
        ),
        (
            "somebody.azurecr.io/memprof:0.1.0",
            "az acr login --name somebody --expose-token --output tsv --query accessToken",
            "00000000-0000-0000-0000-000000000000",
        ),
    ],
)
def test_each_registry_is_signed_in_to_and_pushed_to(tmp_path: Path, target: str, asked: str, user: str) -> None:
    tools = Tools(tmp_path, "docker", "aws", "gcloud", "az")
    cloud = asked.partition(" ")[0]
    done = tools.run("push.sh", "memprof:latest", target, **{f"SAYS_{cloud}": "a-token"})
    assert done.returncode == 0, done.stderr
    registry = target.partition("/")[0]
    assert sorted(tools.commands) == sorted([
        asked, f"docker login --username {user} --password-stdin {registry}",
        f"docker tag memprof:latest {target}", f"docker push {target}",
    ])  # fmt: skip
    [login] = [call for call in tools.calls if "login" in call["command"] and call["command"][0] == "docker"]
    assert login["password"] == "a-token\n"
    assert login["folder"]
    assert not Path(login["folder"]).exists()


@pytest.mark.parametrize("cloud", ["aws", "docker"])
def test_a_sign_in_that_fails_pushes_nothing(tmp_path: Path, cloud: str) -> None:
    tools = Tools(tmp_path, "docker", "aws")
    target = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/memprof:0.1.0"
    assert tools.run("push.sh", "memprof:latest", target, FAILS=cloud).returncode == 1
    assert not [command for command in tools.commands if command.startswith(("docker tag", "docker push"))]


@pytest.mark.parametrize(
    "target", ["docker.io/me/memprof:1", "memprof:1", "x.azurecr.io/memprof", "x.azurecr.io.evil.com/memprof:1"]
)
def test_other_registries_are_refused(tmp_path: Path, target: str) -> None:
    tools = Tools(tmp_path, "docker", "az")
    assert tools.run("push.sh", "memprof:latest", target).returncode == 2
    assert not tools.commands


def test_the_proof_looks_at_the_card_then_a_kernel_then_a_prediction(tmp_path: Path) -> None:
    tools = Tools(tmp_path, "nvidia-smi", "python", "memprof")
    done = tools.run("test.sh", SAYS_nvidia_smi="NVIDIA H100, 580.1, 81559 MiB, 9.0")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "card: NVIDIA H100, 580.1, 81559 MiB, 9.0"
    assert [command.partition(" ")[0] for command in tools.commands] == ["nvidia-smi", "python", "memprof"]
    assert tools.commands[1] == f"python {DOCKER}/kernel.py"
    assert re.fullmatch(r"memprof verify --out (\S+) \1/smoke.yaml", tools.commands[2])


def test_the_proof_s_scenario_is_for_the_card_that_is_there(tmp_path: Path) -> None:
    tools = Tools(tmp_path, "nvidia-smi", "python")
    estimate = '#!/bin/sh\nexec "$PYTHON" -m memprof estimate --scenario "$4" --json\n'
    (tools.folder / "memprof").write_text(estimate)
    (tools.folder / "memprof").chmod(0o755)
    done = tools.run("test.sh", SAYS_nvidia_smi="NVIDIA H200, 580.1, 143771 MiB, 9.0", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    assert answer["device"]["name"] == "h200-141gb"
    assert answer["peak"]["reserved_bytes"] < 8 << 30


def test_another_scenario_can_be_proved(tmp_path: Path) -> None:
    tools = Tools(tmp_path, "nvidia-smi", "python", "memprof")
    assert tools.run("test.sh", "mine.yaml").returncode == 0
    assert tools.commands[2].endswith(" mine.yaml")


@pytest.mark.parametrize(("broken", "num_calls"), [("nvidia-smi", 1), ("python", 2), ("memprof", 3)])
def test_the_proof_fails_with_its_first_step_that_does(tmp_path: Path, broken: str, num_calls: int) -> None:
    tools = Tools(tmp_path, "nvidia-smi", "python", "memprof")
    done = tools.run("test.sh", FAILS=broken)
    assert done.returncode == 1
    assert len(tools.commands) == num_calls
    assert "the image works" not in done.stdout


def test_without_a_card_the_kernel_s_proof_says_what_to_do() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    done = subprocess.run([sys.executable, DOCKER / "kernel.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: torch sees no CUDA device; start the container with --gpus all\n"


@pytest.mark.gpu
def test_kernels_run_on_the_card() -> None:
    done = subprocess.run([sys.executable, DOCKER / "kernel.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"kernels for sm_\d+ run", done.stdout)

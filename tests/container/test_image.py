"""What the image holds, that it needs no rights, that it stops and goes on. Needs an engine.

FACTLIFE_IMAGE names an image that is already built; without it the image is built here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.container

# Bytes of the unpacked image: 6.17 GB with CUDA and 2.15 for CPUs when this was set.
LARGEST = {"cuda": 6.6e9, "cpu": 2.3e9}
# No network, no rights, an unknown user, nothing to write on but a noexec /tmp and the volume.
HARDENED = (
    "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges",
)  # fmt: skip
STRANGER = "12345:12345"
# One thread: beside other work two of them would wait for one another at every small step. And
# tables wide enough that no cell is broken into lines.
ONE_THREAD = ("--env", "OMP_NUM_THREADS=1", "--env", "COLUMNS=200")
TOKEN = "hf_secretsecretsecret"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def docker(*words: str, timeout: int = 3600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout)


def run(image: str, *words: str, options: tuple[str, ...] = HARDENED) -> Any:
    return docker("run", "--rm", *options, "--user", STRANGER, image, *words)


def python(image: str, code: str, *options: str) -> str:
    words = [*HARDENED, *options, "--entrypoint", "python", image, "-c", code]
    done = docker("run", "--rm", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> str:
    if shutil.which("docker") is None or docker("version", timeout=60).returncode != 0:
        pytest.skip("no Docker engine answers: start one, or set DOCKER_HOST")
    if given := os.environ.get("FACTLIFE_IMAGE") or os.environ.get("IMAGE"):
        return given
    sha = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    words = ["build", "--tag", "factlife:test", "--build-arg", f"GIT_SHA={sha.stdout.strip()}"]
    built = docker(*words, str(ROOT))
    assert built.returncode == 0, built.stderr[-3000:]
    return "factlife:test"


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    (found,) = json.loads(docker("image", "inspect", image).stdout)
    return dict(found["Config"]) | {"Size": found["Size"]}


# ---- what it is --------------------------------------------------------------------------------


def test_its_labels_say_which_version_it_is(config: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    labels = {k.rpartition(".")[2]: v for k, v in config["Labels"].items()}
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    environment = dict(line.split("=", 1) for line in config["Env"])
    assert labels["revision"] == environment["FACTLIFE_GIT_SHA"]


def test_it_runs_as_an_ordinary_user_and_asks_for_the_gpu(config: dict[str, Any]) -> None:
    assert config["User"] == "1000:1000"
    assert list(config["Volumes"]) == ["/runs"]
    assert "NVIDIA_VISIBLE_DEVICES=all" in config["Env"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in config["Env"]
    assert not any("HF_TOKEN" in line for line in config["Env"])


def test_its_size_is_kept_in_check(image: str, config: dict[str, Any]) -> None:
    cuda = python(image, "import torch; print(torch.version.cuda)") != "None"
    assert config["Size"] <= LARGEST["cuda" if cuda else "cpu"]


def test_alone_it_prints_help(image: str) -> None:
    done = run(image)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: factlife")


def test_exit_codes_pass_through(image: str) -> None:
    assert run(image, "score", "/absent").returncode == 2
    assert run(image, "--version").returncode == 0


def test_the_data_sets_are_inside_and_load_offline(image: str) -> None:
    done = run(image, "datasets", "validate")
    assert done.returncode == 0, done.stderr
    code = (
        "from datasets import load_dataset; "
        "print(len(load_dataset('/opt/factlife/datasets/fact-probes', 'facts', split='test')))"
    )
    assert python(image, code).splitlines()[-1] == "160"


def test_the_digest_that_it_is_told_reaches_the_result(image: str) -> None:
    code = (
        "from factlife.runner.provenance import environment; "
        "print(environment('cpu', {}, True)['image_digest'])"
    )
    assert python(image, code, "--env", f"FACTLIFE_IMAGE_DIGEST={DIGEST}") == DIGEST
    assert python(image, code) == "None"


# ---- the kernel --------------------------------------------------------------------------------


def findings(image: str, *options: str) -> dict[str, dict[str, str]]:
    done = docker("run", "--rm", *options, "--user", STRANGER, image, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_doctor_finds_nothing_wrong_without_any_rights(image: str) -> None:
    found = findings(image, *HARDENED)
    assert "error" not in {row["state"] for row in found.values()}
    assert found["kernel"]["found"].startswith("eager: ")  # /tmp is noexec
    assert "exec" in found["kernel"]["todo"]
    assert found["datasets/fact-probes"]["state"] == "ok"


def test_doctor_says_what_cannot_be_written(image: str, volume: str) -> None:
    """A volume that may only be read."""
    options = [*HARDENED, "--volume", f"{volume}:/runs:ro", "--user", STRANGER]
    done = docker("run", "--rm", *options, image, "doctor", "--json")
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 2
    assert found["run folder"]["state"] == "error"
    assert "Read-only file system" in found["run folder"]["found"]


def test_a_folder_of_downloads_can_be_mounted(image: str, tmp_path: Path) -> None:
    """The table of options in docs/running-elsewhere.md says where."""
    tmp_path.chmod(0o777)
    mounted = ("--volume", f"{tmp_path}:/tmp/huggingface")
    assert findings(image, *HARDENED, *mounted)["download cache"]["state"] == "ok"
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    assert python(image, code, *mounted) == "/tmp/huggingface/hub"


def test_the_kernel_is_compiled_where_files_may_be_executed(image: str) -> None:
    options = [word if word != "/tmp" else "/tmp:exec" for word in HARDENED]
    found = findings(image, *options)["kernel"]
    assert found["state"] == "ok"
    assert found["found"].startswith(("c on cpu", "compile on cuda"))


def test_pythons_headers_are_there_for_triton(image: str) -> None:
    code = (
        "import pathlib, sysconfig; "
        "print((pathlib.Path(sysconfig.get_paths()['include']) / 'Python.h').is_file())"
    )
    assert python(image, code) == "True"


# ---- the demo ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume(image: str) -> Iterator[str]:
    """A volume of its own, filled with the image's empty /runs by whoever mounts it first."""
    name = f"factlife-test-{os.getpid()}"
    docker("volume", "create", name)
    assert measured(image, name) == 0
    yield name
    docker("volume", "rm", "--force", name)


def in_volume(image: str, volume: str, command: str) -> str:
    words = ["--volume", f"{volume}:/runs", "--entrypoint", "sh", image, "-c", command]
    return docker("run", "--rm", "--network", "none", *words).stdout


def measured(image: str, volume: str) -> int:
    return int(
        in_volume(image, volume, "find /runs/demo/tables/checkpoints -name '*.parquet' | wc -l")
    )


def demo_words(volume: str) -> list[str]:
    """A demo without any rights, in an image that knows its digest, with a token at hand."""
    told = ["--env", f"FACTLIFE_IMAGE_DIGEST={DIGEST}", "--env", f"HF_TOKEN={TOKEN}"]
    return [*HARDENED, *ONE_THREAD, *told, "--user", STRANGER, "--volume", f"{volume}:/runs"]


@pytest.fixture(scope="module")
def stopped(image: str, volume: str) -> Iterator[tuple[int, str, int]]:
    """A demo without any rights that got SIGTERM in mid-run: exit code, stderr, checkpoints."""
    container = docker("run", "--detach", *demo_words(volume), image, "demo").stdout.strip()
    try:
        deadline = time.monotonic() + 3000
        while measured(image, volume) < 2:
            state = docker("inspect", "--format", "{{.State.Running}}", container).stdout.strip()
            assert state == "true", docker("logs", container).stderr[-3000:]
            assert time.monotonic() < deadline
            time.sleep(2)
        docker("stop", "--time", "60", container)
        code = docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip()
        yield int(code), docker("logs", container).stderr, measured(image, volume)
    finally:
        docker("rm", "--force", container)


def test_sigterm_stops_it_cleanly(stopped: tuple[int, str, int]) -> None:
    code, stderr, checkpoints = stopped
    assert code == 5, stderr[-3000:]
    assert "stopped; finished parts are kept" in stderr
    assert 2 <= checkpoints < 14


def test_the_same_command_goes_on_to_the_end(
    image: str, volume: str, stopped: tuple[int, str, int]
) -> None:
    done = docker("run", "--rm", *demo_words(volume), image, "demo")
    print(done.stdout + done.stderr)  # what each stage took: pytest -rP
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{stopped[2]} kept from before" in done.stderr
    result = json.loads(in_volume(image, volume, "cat /runs/demo/result.json"))
    measured_tracks = {name.split(".")[0] for name in result["metrics"]}
    assert {"recall", "circuits", "injection", "dynamics"} <= measured_tracks
    assert result["metrics"]["recall.whole_answer_accuracy@stated"]["value"] >= 0.9
    assert result["env"]["image_digest"] == DIGEST
    assert result["env"]["git_sha"] or not os.environ.get("CI")
    assert TOKEN not in done.stdout + done.stderr
    assert in_volume(image, volume, f"grep -rl {TOKEN} /runs; echo searched") == "searched\n"
    made = in_volume(image, volume, "ls /runs/demo /runs/demo/leaderboard")
    assert {"report.html", "index.html"} <= set(made.split())

"""The image runs the demo without a network, as an ordinary user. Needs a Docker engine.

FACTLIFE_IMAGE names an image that is already built; without it the image is built here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.container


def docker(*words: str, timeout: int = 3600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout)


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
def demo(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the image's demo left its files."""
    runs = tmp_path_factory.mktemp("runs")
    runs.chmod(0o777)
    words = ["run", "--rm", "--network", "none", "--volume", f"{runs}:/runs", image, "demo"]
    done = docker(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    return runs / "demo"


def test_the_demo_runs_without_a_network(demo: Path) -> None:
    result = json.loads((demo / "result.json").read_text())
    stated = result["metrics"]["recall.whole_answer_accuracy@stated"]
    assert stated["value"] >= 0.9
    assert (demo / "report.html").is_file()
    assert (demo / "leaderboard" / "index.html").is_file()


def test_the_image_does_not_run_as_root(image: str) -> None:
    done = docker("run", "--rm", "--network", "none", "--entrypoint", "id", image, "--user")
    assert done.stdout.strip() == "1000"


def test_the_data_sets_are_inside_and_load_offline(image: str) -> None:
    done = docker("run", "--rm", "--network", "none", image, "datasets", "validate")
    assert done.returncode == 0, done.stderr
    code = (
        "from datasets import load_dataset; "
        "print(len(load_dataset('/opt/factlife/datasets/fact-probes', 'facts', split='test')))"
    )
    words = ["run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", code]
    done = docker(*words)
    assert done.stdout.strip() == "160", done.stderr

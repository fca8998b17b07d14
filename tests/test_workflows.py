"""The workflow files: that they can be read, and that the release tags what it has tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
FILES = (RELEASE, ROOT / "docs" / "results-ci.yml")


def steps(path: Path) -> list[dict[str, Any]]:
    (job,) = yaml.safe_load(path.read_text("utf-8"))["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_script_of_a_workflow_can_be_read(path: Path) -> None:
    scripts = [s for s in steps(path) if "run" in s]
    assert scripts
    for step in scripts:
        if step.get("shell") == "python":
            compile(step["run"], str(path), "exec")
        else:
            read = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True)
            assert read.returncode == 0, f"{step.get('name')}: {read.stderr}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_workflow_may_write_only_what_it_has_to(path: Path) -> None:
    whole = yaml.safe_load(path.read_text("utf-8"))
    allowed = {"contents": "read"} | ({"packages": "write"} if path == RELEASE else {})
    assert whole["permissions"] == allowed
    (job,) = whole["jobs"].values()
    assert "permissions" not in job and job["timeout-minutes"] <= 120
    assert all("@" in s["uses"] for s in job["steps"] if "uses" in s)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_actionlint_finds_nothing(path: Path) -> None:
    if (linter := shutil.which("actionlint")) is None:
        pytest.skip("no actionlint on the PATH")
    done = subprocess.run([linter, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def blocks(language: str) -> list[str]:
    """The code of one language in docs/running-elsewhere.md."""
    text = (ROOT / "docs" / "running-elsewhere.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_commands_for_other_engines_can_be_read() -> None:
    assert len(blocks("sh")) >= 4
    for block in blocks("sh"):
        read = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert read.returncode == 0, f"{block}: {read.stderr}"


def test_the_kubernetes_job_asks_for_what_the_image_has() -> None:
    (job,) = map(yaml.safe_load, blocks("yaml"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user = re.search(r"^USER (\d+):", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert user is not None and pod["securityContext"]["runAsUser"] == int(user[1])
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert mounts == {"runs": "/runs", "tmp": "/tmp"}
    assert {v["name"] for v in pod["volumes"]} == set(mounts)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    shards = int(container["command"][-1].rpartition("/")[2])
    assert shards == job["spec"]["completions"]


# ---- the release, with a docker that only writes down what it is told --------------------------

DOCKER = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$1 $2" in
"image inspect") [ -z "$PUSHED" ] || printf 'other/image@sha256:0\\n%s@%s\\n' "$IMAGE" "$PUSHED" ;;
"build --tag") cat >>"$CALLS" ;;
"run --rm") echo "${TOLD-$PUSHED}" ;;
"login "*) cat >/dev/null ;;
esac
"""


def release(tmp_path: Path, first: str, **environment: str) -> tuple[int, list[str], str]:
    """Run the release's scripts from a step on: exit status, calls of docker, what it exports."""
    stub = tmp_path / "bin" / "docker"
    stub.parent.mkdir()
    stub.write_text(DOCKER)
    stub.chmod(0o755)
    calls, exported = tmp_path / "calls", tmp_path / "exported"
    calls.touch(), exported.touch()
    env = {
        **os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "CALLS": str(calls),
        "IMAGE": "registry.test/org/factlife", "VERSION": "0.1.0", "TOKEN": "secret",
        "GITHUB_ACTOR": "ann", "GITHUB_ENV": str(exported),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), **environment,
    }  # fmt: skip
    wanted = steps(RELEASE)
    names = [s.get("name") for s in wanted]
    code = 0
    for step in wanted[names.index(first) :]:
        env |= dict(line.split("=", 1) for line in exported.read_text().splitlines())
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        code = subprocess.run(words, env=env, cwd=ROOT, capture_output=True).returncode
        if code:
            break
    return code, calls.read_text().splitlines(), exported.read_text()


def test_what_is_pushed_is_what_was_built_and_tested() -> None:
    """No step may stand between, and none builds the tested image anew."""
    names = [s.get("name") for s in steps(RELEASE)]
    places = [names.index(n) for n in ("Build", "Test", "Push by digest")]
    assert places == sorted(places)
    by_name = {s.get("name"): s for s in steps(RELEASE)}
    assert '--tag "$IMAGE:candidate"' in by_name["Build"]["run"]
    assert by_name["Test"]["env"]["FACTLIFE_IMAGE"] == "${{ env.IMAGE }}:candidate"
    assert not any(s.get("continue-on-error") or "if" in s for s in steps(RELEASE))


def test_tags_point_to_a_layer_that_knows_the_digest(tmp_path: Path) -> None:
    digest = "sha256:" + "ab" * 32
    code, calls, exported = release(tmp_path, "Push by digest", PUSHED=digest)
    image = "registry.test/org/factlife"
    assert code == 0
    assert exported == f"DIGEST={digest}\n"
    assert calls.index(f"push {image}:candidate") < calls.index(f"FROM {image}@{digest}")
    assert f"ENV FACTLIFE_IMAGE_DIGEST={digest}" in calls
    assert [c for c in calls if c.startswith("push")] == [
        f"push {image}:candidate", f"push {image}:0.1.0", f"push {image}:latest",
    ]  # fmt: skip
    assert not any("secret" in call for call in calls)
    assert digest in (tmp_path / "summary").read_text()


def test_without_a_digest_nothing_is_tagged(tmp_path: Path) -> None:
    code, calls, _ = release(tmp_path, "Push by digest", PUSHED="")
    assert code != 0
    assert not any(":0.1.0" in call or ":latest" in call for call in calls)


def test_an_image_that_does_not_know_its_digest_is_not_pushed(tmp_path: Path) -> None:
    code, calls, _ = release(tmp_path, "Push by digest", PUSHED="sha256:aa", TOLD="sha256:bb")
    assert code != 0
    assert [c for c in calls if c.startswith("push")] == [
        "push registry.test/org/factlife:candidate"
    ]


@pytest.mark.parametrize(("tag", "code"), [("v0.1.0", 0), ("v9.9.9", 1), ("0.1.0", 1)])
def test_a_tag_of_another_version_is_refused(tag: str, code: int, tmp_path: Path) -> None:
    by_name = {s.get("name"): s for s in steps(RELEASE)}
    env = {**os.environ, "GITHUB_REF_NAME": tag, "GITHUB_ENV": str(tmp_path / "exported")}
    words = ["bash", "-eo", "pipefail", "-c", by_name["The tag is the package's version"]["run"]]
    assert subprocess.run(words, env=env, cwd=ROOT, capture_output=True).returncode == code

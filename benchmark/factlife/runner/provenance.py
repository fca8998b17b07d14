"""Where and with what a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import factlife

PACKAGES = (
    "factlife", "numpy", "pyarrow", "safetensors", "scipy", "tokenizers", "torch", "transformers",
)  # fmt: skip


def environment(device: str, seeds: dict[str, int], deterministic: bool) -> dict[str, Any]:
    """The `env` block of result.json."""
    sha, dirty = source_commit()
    return {
        "image_digest": os.environ.get("FACTLIFE_IMAGE_DIGEST") or None,
        "git_sha": sha,
        "dirty": dirty,
        "packages": {"python": platform.python_version(), **_versions()},
        "device": device,
        "seeds": seeds,
        "deterministic": deterministic,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_commit() -> tuple[str | None, bool | None]:
    """Commit of the factlife source and whether it has local changes; None where unknown.

    An image has no repository: there FACTLIFE_GIT_SHA, set when it was built, speaks.
    """
    if sha := os.environ.get("FACTLIFE_GIT_SHA"):
        return sha.removesuffix("-dirty"), sha.endswith("-dirty")
    folder = Path(factlife.__file__).parent
    sha = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    if not sha or not tracked:  # an installed copy that happens to lie inside another repository
        return None, None
    return sha, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))


def _git(folder: Path, *words: str) -> str | None:
    try:
        out = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip() if out.returncode == 0 else None

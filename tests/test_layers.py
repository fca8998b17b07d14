"""The house has floors: a file imports only from its own room or from floors below.

Rooms without torch really have none: proved by importing them where torch cannot be imported.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "benchmark" / "factlife"

FLOORS = {
    "errors": -1, "conform": -1, "schema": 0, "result": 0, "store": 0, "config": 0, "stats": 0,
    "series": 1, "corpora": 1,
    "tracing": 2, "training": 2, "scoring": 2,
    "recall": 3, "circuits": 3, "injection": 3, "dynamics": 3,
    "scores": 4,
    "report": 5, "hub": 5,
    "runner": 6,
    "cli": 7, "__main__": 8,
}  # fmt: skip
# Rooms of one floor that may use one another: what a run folder is made of, and the page shell.
SAME_FLOOR = {
    ("store", "schema"), ("config", "store"), ("hub", "report"),
}  # fmt: skip

NO_TORCH = [
    "factlife.errors", "factlife.schema", "factlife.result", "factlife.store", "factlife.config",
    "factlife.stats", "factlife.recall.metrics", "factlife.circuits.metrics", "factlife.scores",
    "factlife.report",
    "factlife.injection.metrics", "factlife.injection.claims", "factlife.injection.compare",
    "factlife.dynamics.phases", "factlife.dynamics.plan", "factlife.dynamics.metrics",
    "factlife.dynamics.claims", "factlife.runner.dynamics_score",
    "factlife.corpora.biographies", "factlife.corpora.biographies.product",
    "factlife.hub", "factlife.runner.score", "factlife.runner.validate", "factlife.cli",
    "factlife.corpora.fact_probes", "factlife.scoring.matching", "factlife.series.names",
    "factlife.series.local", "factlife.series.integrity", "factlife.series.discover",
    "factlife.series.check", "factlife.series.fetch", "factlife.series.hub",
    "factlife.series.registry", "factlife.series.select", "factlife.series.survey",
]  # fmt: skip


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{a.name}" for a in node.names)


def room(dotted: str) -> str | None:
    """Room of a dotted name inside the package; None for the package itself."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else None


def violations(package: Path) -> list[str]:
    """Imports that go up, or sideways into another room."""
    found = []
    for path in sorted(package.rglob("*.py")):
        own = room(
            "factlife." + path.relative_to(package).as_posix().removesuffix(".py").replace("/", ".")
        )
        for name in imports(path):
            other = room(name) if name.startswith("factlife.") else None
            if own is None or other is None or own == other or (own, other) in SAME_FLOOR:
                continue
            if FLOORS[other] >= FLOORS[own]:
                found.append(f"{path.relative_to(package)} ({own}) imports {name}")
    return found


def test_every_file_lives_in_a_known_room() -> None:
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__"} <= set(FLOORS)


def test_a_file_imports_only_from_its_own_room_or_lower_floors() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("recall/measure.py", "from factlife.circuits import metrics"),
        ("stats.py", "import factlife.series.names"),
        ("report/page.py", "def f():\n    from factlife.runner import run"),
    ],
)
def test_the_check_sees_an_import_upwards_or_sideways(
    tmp_path: Path, place: str, line: str
) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(line + "\n")
    assert len(violations(tmp_path)) == 1


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "jaxtyping", "safetensors"):
            raise ModuleNotFoundError(name + " is blocked in this test", name=name)
sys.meta_path.insert(0, Blocker())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_rooms_without_torch_import_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *NO_TORCH], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED, "torch"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "blocked in this test" in done.stderr


def test_the_datasets_folder_does_not_shadow_the_library() -> None:
    code = "import datasets; print(datasets.__version__, datasets.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert str(ROOT / "datasets") not in done.stdout


def test_no_python_lies_under_datasets() -> None:
    assert list((ROOT / "datasets").rglob("*.py")) == []


def test_top_level_holds_only_what_the_design_names() -> None:
    wanted = {
        "Dockerfile", ".dockerignore", "benchmark", "datasets", "leaderboard", "tests", "tox.ini",
        "README.md", "pyproject.toml", "constraints.txt", "CHANGELOG.md", "LICENSE", "docs", ".ci",
        ".gitignore", ".github",
    }  # fmt: skip
    listed = subprocess.run(
        ["git", "ls-files", "--cached"], capture_output=True, text=True, cwd=ROOT
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what is tracked is unknown")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= wanted

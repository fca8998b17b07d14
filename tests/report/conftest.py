"""Run folders for the report's tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.circuit_run import FOURTEEN, CircuitDesign, build_circuit_run
from tests.report.synthetic import Design, build_run

from factlife.report import write_report
from factlife.store import RunStore


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """13 checkpoints from step 0, 160 facts, stated and unstated, candidates; with its report."""
    run = build_run(tmp_path_factory.mktemp("full") / "run", Design())
    write_report(run)
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[Design], RunStore]:
    """Build a small run: 3 facts a relation unless the design says otherwise."""

    def make(design: Design) -> RunStore:
        if design.facts_per_relation is None:
            design = dataclasses.replace(design, facts_per_relation=3)
        return build_run(tmp_path / "run", design)

    return make


@pytest.fixture(scope="session")
def circuit_run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """14 checkpoints of a model of 4 layers x 4 heads, both tracks; with its report."""
    recall = Design(tokens=FOURTEEN, facts_per_relation=3)
    run = build_circuit_run(tmp_path_factory.mktemp("circuits") / "run", CircuitDesign(recall))
    write_report(run)
    return run

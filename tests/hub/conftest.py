"""Folders of results for the board's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factlife.store import write_json


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write results as `<n>/result.json` under one folder and return it."""

    def write(*results: dict[str, Any]) -> Path:
        for i, result in enumerate(results):
            write_json(tmp_path / "results" / str(i) / "result.json", result)
        return tmp_path / "results"

    return write

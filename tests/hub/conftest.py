"""Folders of results for the board's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from factlife.hub import protocol
from factlife.store import write_json


@pytest.fixture(autouse=True, scope="module")
def a_ranked_standard() -> Iterator[None]:
    """The profile `standard` as `make_result` has it: the shipped one may not be ranked yet."""
    genuine = protocol.shipped_params

    def params(name: str, version: int) -> dict[str, Any] | None:
        if name != "standard" or version < 1:
            return genuine(name, version)
        return {"name": name, "version": version, "ranked": True}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "shipped_params", params)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write results as `<n>/result.json` under one folder and return it."""

    def write(*results: dict[str, Any]) -> Path:
        for i, result in enumerate(results):
            write_json(tmp_path / "results" / str(i) / "result.json", result)
        return tmp_path / "results"

    return write

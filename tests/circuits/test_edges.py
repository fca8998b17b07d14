"""Edges to draw equal those that a search through the explicit graph meets."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.graph import circuit, random_contributions
from tests.circuits.test_threshold import MODES
from tests.tiny import CONFIGS, VOCAB, random_model

from factlife.circuits.edges import COLUMNS, answer_edges
from factlife.circuits.prompts import Item
from factlife.circuits.threshold import survivors
from factlife.config import Circuits
from factlife.corpora.prompts import Encoded
from factlife.scoring.targets import pad
from factlife.tracing import Contributions, adapter_for, contributions

Key = tuple[Any, ...]


def item(name: str, length: int, answer: tuple[int, int]) -> Item:
    return Item(name, "r", Encoded(tuple(range(length)), (0, 1), answer), (), True)


def by_definition(
    c: Contributions, b: int, it: Item, tau: float, mode: Circuits
) -> dict[Key, tuple[float, list[int]]]:
    """(layer, edge, source, target) -> its share and its heads."""
    start, end = it.encoded.answer
    shares: dict[Key, float] = defaultdict(float)
    heads: dict[Key, list[int]] = defaultdict(list)
    for e in circuit(c, b, list(range(start - 1, end - 1)), tau, mode).edges:
        if e.kind not in ("attention", "residual", "ffn", "mid"):
            continue  # what an FFN reads is no edge of its own
        own = e.source_position == e.target_position
        kind = (
            "residual" if e.kind == "attention" and own and mode.self_edges == "merged" else e.kind
        )
        key = (e.layer, kind, e.source_position, e.target_position)
        shares[key] += e.share
        heads[key] += [] if e.head is None else [e.head]
    return {k: (shares[k], sorted(heads[k])) for k in shares if shares[k] > 0}


def assert_equal(table: pa.Table, wanted: dict[Key, tuple[float, list[int]]]) -> None:
    assert tuple(table.column_names) == COLUMNS
    got = {
        (r["layer"], r["edge"], r["source_position"], r["target_position"]): r
        for r in table.to_pylist()
    }
    assert len(got) == table.num_rows
    assert got.keys() == wanted.keys()
    for key, (share, heads) in wanted.items():
        assert got[key]["contribution"] == pytest.approx(share, abs=1e-6)
        assert got[key]["heads"] == heads


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    parallel=st.booleans(),
    tau=st.sampled_from([0.0, 0.02, 0.1]),
    mode=st.sampled_from(MODES),
    answer=st.sampled_from([(1, 2), (2, 5), (4, 5)]),
)
def test_random_graphs(
    seed: int, parallel: bool, tau: float, mode: Circuits, answer: tuple[int, int]
) -> None:
    c = random_contributions(seed, (3, 5, 4), parallel=parallel, spread=2.0, zeros=0.3)
    shown = [(1, item("b", 5, answer)), (2, item("c", 4, (3, 4)))]
    tables = answer_edges(c, survivors(c, tau, mode), shown, mode)
    for (b, it), table in zip(shown, tables, strict=True):
        assert set(table["fact_id"].to_pylist()) <= {it.fact_id}
        assert_equal(table, by_definition(c, b, it, tau, mode))


@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_traced_models_of_every_architecture(arch: str) -> None:
    model = random_model(arch)
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in (6, 4)]
    c = contributions(model, adapter_for(model), pad(rows, "right", torch.device("cpu")))
    shown = [(0, item("a", 6, (4, 6))), (1, item("b", 4, (3, 4)))]
    for mode in MODES:
        tables = answer_edges(c, survivors(c, 0.03, mode), shown, mode)
        assert sum(t.num_rows for t in tables) > 0
        for (b, it), table in zip(shown, tables, strict=True):
            assert_equal(table, by_definition(c, b, it, 0.03, mode))


def test_what_leads_into_a_position_sums_to_one() -> None:
    """Without biases and with everything alive, the edges of a group are all of it."""
    c = random_contributions(5, (4,), zeros=0.0)
    none = torch.zeros_like(c.attention_bias)
    scale = (1 - c.attention_bias)[..., None, None]
    ffn = 1 - c.ffn_bias
    assert c.mid is not None
    c = dataclasses.replace(
        c, heads=c.heads / scale, residual=c.residual / (1 - c.attention_bias),
        attention_bias=none, ffn=c.ffn / ffn, mid=c.mid / ffn, ffn_bias=none,
    )  # fmt: skip
    settings = Circuits()
    (table,) = answer_edges(c, survivors(c, 0.0, settings), [(0, item("a", 4, (3, 4)))], settings)
    sums: dict[Key, float] = defaultdict(float)
    for r in table.to_pylist():
        group = "attention" if r["edge"] in ("attention", "residual") else "ffn"
        sums[r["layer"], group, r["target_position"]] += r["contribution"]
    assert (2, "ffn", 2) in sums
    assert list(sums.values()) == pytest.approx([1.0] * len(sums), abs=1e-5)

"""Rows of a checkpoint: complete, with reasons and flags, and true to the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from tests.circuits.graph import each_circuit
from tests.tiny import byte_level_tokenizer, metaspace_tokenizer, random_model

from factlife.circuits import measure as module
from factlife.circuits.bits import unpack
from factlife.circuits.measure import Measured, measure, prepare
from factlife.config import Circuits, Execution, Profile
from factlife.corpora.fact_probes import Fact, FactProbes, Relation, Template, load_fact_probes
from factlife.schema import CIRCUIT_EDGES, CIRCUITS, CIRCUITS_SWEEP
from factlife.scoring.targets import pad
from factlife.tracing import adapter_for, contributions

KEYS = {"revision": "step7", "stage": "main", "step": 7}
PROBES = load_fact_probes()
# tau 0.05: some components of a tiny random model are in a circuit and some are not.
PROFILE = Profile("x", circuits=Circuits(tau=0.05, tau_sweep=(0.02, 0.05, 0.1)))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level_tokenizer()


def tables(
    tokenizer: Any,
    profile: Profile = PROFILE,
    probes: FactProbes = PROBES,
    max_length: int | None = None,
    model: Any = None,
) -> Measured:
    prepared = prepare(tokenizer, probes, profile, max_length)
    return measure(model or random_model("llama"), tokenizer, prepared, profile, KEYS)


def few(n: int, start: int = 0) -> FactProbes:
    """Every n-th fact of the probe set."""
    return replace(PROBES, facts=PROBES.facts[start::n])


def fact(subject: str, answer: str) -> Fact:
    return Fact(
        f"r.{subject}", "r", "LOC", subject, answer, (), None, None, (), None, None, None
    )  # fmt: skip


def one_relation(template: str, *facts: Fact) -> FactProbes:
    templates = (Template("r.source", template, "source"),)
    return FactProbes(facts, (Relation("r", "LOC", templates, (), ""),), ())


def test_every_token_of_every_fact_has_its_row(tokenizer: Any) -> None:
    found = tables(tokenizer)
    for spec, table in (
        (CIRCUITS, found.circuits), (CIRCUITS_SWEEP, found.sweep), (CIRCUIT_EDGES, found.edges)
    ):  # fmt: skip
        spec.check(table)
        assert set(table["revision"].to_pylist()) == {"step7"}
    rows = found.circuits.to_pylist()
    prepared = prepare(tokenizer, PROBES, PROFILE, None)
    places = [(i.fact_id, p) for i in prepared.items for p in range(len(i.encoded.ids))]
    assert [(r["fact_id"], r["position"]) for r in rows] == places
    assert set(found.sweep["tau"].to_pylist()) == {0.02, 0.1}  # the protocol's is not repeated
    assert found.sweep.num_rows == 2 * len(places)


def test_a_row_knows_its_token(tokenizer: Any) -> None:
    """Tokens of a span, put together, are the subject and the answer, blanks aside."""
    rows = tables(tokenizer, probes=few(7)).circuits.to_pylist()
    for f in few(7).facts:
        own = [r for r in rows if r["fact_id"] == f.fact_id]

        def text(column: str, own: list[dict[str, Any]] = own) -> str:
            return "".join(r["token"] for r in own if r[column]).strip()

        assert own[0]["relation"] == f.relation
        if f.subject.isascii() and f.answer.isascii():  # else tokens are parts of characters
            assert text("in_subject") == f.subject
            assert text("in_answer") == f.answer
        predicts = [r["position"] + 1 for r in own if r["predicts_answer"]]
        assert predicts == [r["position"] for r in own if r["in_answer"]]


@pytest.mark.parametrize("arch", ["gpt_neox", "olmoe", "olmo2"])
def test_rows_are_the_circuits_of_the_slow_definition(tokenizer: Any, arch: str) -> None:
    model, probes = random_model(arch), few(40)
    found = tables(tokenizer, probes=probes, model=model)
    prepared = prepare(tokenizer, probes, PROFILE, None)
    padded = pad([i.encoded.ids for i in prepared.items], "right", torch.device("cpu"))
    c = contributions(model, adapter_for(model), padded)
    for tau, rows in [(0.05, found.circuits)] + [
        (tau, found.sweep.filter(pc.field("tau") == tau)) for tau in (0.02, 0.1)
    ]:
        heads = unpack(rows["heads"], 8).reshape(-1, 2, 4)
        ffns = unpack(rows["ffns"], 2)
        experts = unpack(rows["experts"], 2 * 4).reshape(-1, 2, 4)
        assert (rows["experts"].null_count == 0) == (arch == "olmoe")
        slow = [
            circuit
            for b, item in enumerate(prepared.items)
            for circuit in each_circuit(c, b, len(item.encoded.ids), tau, PROFILE.circuits)
        ]
        for n, wanted in enumerate(slow):
            assert {tuple(x) for x in np.argwhere(heads[n]).tolist()} == wanted.heads
            assert set(np.flatnonzero(ffns[n]).tolist()) == wanted.ffns
            assert {tuple(x) for x in np.argwhere(experts[n]).tolist()} == wanted.experts


def test_batches_change_no_row(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tables(tokenizer, probes=few(5))
    small = replace(PROFILE, execution=Execution(batch_tokens=64))
    cut = tables(tokenizer, small, probes=few(5))
    monkeypatch.setattr(module, "CONTRIBUTION_BYTES", 1)  # every prompt by itself
    alone = tables(tokenizer, probes=few(5))
    for other in (cut, alone):
        assert other.circuits.equals(whole.circuits)
        assert other.sweep.equals(whole.sweep)
        keys = list(CIRCUIT_EDGES.key)
        a, b = (t.edges.sort_by([(k, "ascending") for k in keys]) for t in (whole, other))
        assert a.drop("contribution").equals(b.drop("contribution"))
        assert np.allclose(a["contribution"], b["contribution"], atol=1e-5)


def test_the_memory_of_a_batch_is_bounded(tokenizer: Any) -> None:
    prepared = prepare(tokenizer, PROBES, PROFILE, None)
    layout = adapter_for(random_model("llama")).layout
    large = replace(layout, n_layers=32, n_heads=32)
    batches = list(module._batches(prepared, large, PROFILE))
    assert sorted(i for b in batches for i in b) == prepared.usable
    for batch in batches:
        longest = max(len(prepared.items[i].encoded.ids) for i in batch)
        assert 4 * 32 * 32 * longest**2 * len(batch) <= module.CONTRIBUTION_BYTES


def test_prompts_that_do_not_fit_keep_one_row_with_the_reason(tokenizer: Any) -> None:
    found = tables(tokenizer, max_length=14)
    rows = found.circuits.to_pylist()
    dropped = [r for r in rows if r["reason"]]
    assert 0 < len(dropped) < len(PROBES.facts)
    for r in dropped:
        assert "longer than the model's context" in r["reason"]
        assert r["position"] == 0
        assert (
            r["heads"] is r["ffns"] is r["token"] is r["n_layers"] is r["predicts_answer"] is None
        )
    gone = {r["fact_id"] for r in dropped}
    assert {r["fact_id"] for r in rows} == {f.fact_id for f in PROBES.facts}
    assert len(rows) - len(dropped) == sum(r["fact_id"] not in gone for r in rows)
    assert not gone & set(found.sweep["fact_id"].to_pylist())
    assert not gone & set(found.edges["fact_id"].to_pylist())
    nothing = tables(tokenizer, max_length=2)
    assert nothing.circuits.num_rows == len(PROBES.facts)
    assert nothing.circuits["reason"].null_count == 0
    assert nothing.sweep.num_rows == nothing.edges.num_rows == 0


def test_an_answer_that_shares_a_token_with_the_template_keeps_one_row(tokenizer: Any) -> None:
    probes = one_relation("{} (", fact("Rome", "Italy"))
    (row,) = tables(_merging_tokenizer(), probes=probes).circuits.to_pylist()
    assert row["reason"] == "answer shares a token with the template"
    assert tables(tokenizer, probes=probes).circuits["reason"].null_count > 1


def test_a_subject_merged_with_the_template_is_flagged() -> None:
    """One token holds the subject's end and the template's full stop: it counts as the subject."""
    probes = one_relation("In {}. they speak", fact("Peru", "Italy"), fact("Rome", "Italy"))
    rows = tables(_merging_tokenizer(), probes=probes).circuits.to_pylist()
    merged = [r for r in rows if r["fact_id"] == "r.Rome"]
    assert all(r["flags"] == ["subject_merged"] for r in merged)
    assert [r["token"] for r in merged if r["in_subject"]] == ["Rome."]
    assert all(r["flags"] == [] for r in rows if r["fact_id"] == "r.Peru")


def _merging_tokenizer() -> Any:
    """Words at blanks; the full stop is a token of its own but for "Rome."."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "In", "Rome", "Peru", ".", "Rome.", "they", "speak", "Italy", "( Italy"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    pattern = Regex(r"\( \w+|Rome\.|\w+|[^\w\s]")
    raw.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def test_a_blank_in_front_of_a_word_is_no_merging() -> None:
    """Whatever the offsets say of blanks. The metaspace one has a token for "se?": a real case."""
    by_bytes, by_marks = (
        {i.fact_id: i for i in prepare(make(), PROBES, PROFILE, None).items if i.flags}
        for make in (byte_level_tokenizer, metaspace_tokenizer)
    )
    assert by_bytes == {}
    assert list(by_marks) == ["company_ceo.jpmorgan_chase"]
    (merged,) = by_marks.values()
    last = merged.encoded.ids[merged.encoded.subject[1] - 1]
    assert metaspace_tokenizer().convert_ids_to_tokens(last).endswith("?")


def test_a_residual_that_is_all_zero_is_flagged() -> None:
    """Intervention: the embedding of one token is set to 0, so that its first group is all zero."""
    tokenizer, model = byte_level_tokenizer(), random_model("llama")
    probes = one_relation("{} lies in", fact("Rome", "Italy"))
    ids = tokenizer("Rome lies in Italy")["input_ids"]
    position = next(i for i in range(2, len(ids)) if ids.count(ids[i]) == 1)
    assert _zero_flags(tokenizer, model, probes) == [False] * len(ids)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.get_input_embeddings().weight[ids[position]] = 0
    # The token itself and every later one, whose circuit might pass through it.
    wanted = [p >= position for p in range(len(ids))]
    assert _zero_flags(tokenizer, model, probes) == wanted


def _zero_flags(tokenizer: Any, model: Any, probes: FactProbes) -> list[bool]:
    rows = tables(tokenizer, probes=probes, model=model).circuits.to_pylist()
    return [r["flags"] == ["zero_residual"] for r in rows]


def test_a_model_that_gives_no_finite_numbers_has_a_reason(tokenizer: Any) -> None:
    model = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Sushi")["input_ids"][-1]] = float("nan")
    found = tables(tokenizer, model=model)
    rows = found.circuits.to_pylist()
    broken = {r["fact_id"] for r in rows if r["reason"] == "the model's activations are not finite"}
    assert "food_from_country.sushi" in broken
    assert 1 <= len(broken) < len(PROBES.facts)
    assert all(r["heads"] is None for r in rows if r["fact_id"] in broken)
    assert sum(r["fact_id"] in broken for r in rows) == len(broken)
    assert not broken & set(found.sweep["fact_id"].to_pylist())


def test_the_profile_decides_what_is_measured(tokenizer: Any) -> None:
    lean = Profile("x", circuits=Circuits(tau_sweep=(), shown_facts=0))
    found = tables(tokenizer, lean, probes=few(10))
    assert found.sweep.num_rows == found.edges.num_rows == 0
    two = tables(tokenizer, Profile("x", circuits=Circuits(shown_facts=2)))
    shown = set(two.edges["fact_id"].to_pylist())
    assert len(shown) == 20
    assert {f.split(".")[0] for f in shown} == {r.relation for r in PROBES.relations}
    never = replace(PROFILE, model=replace(PROFILE.model, bos="never"))
    with_bos = byte_level_tokenizer(bos=True)
    auto, bare = (tables(with_bos, p, probes=few(10)).circuits for p in (PROFILE, never))
    assert auto.num_rows == bare.num_rows + len(few(10).facts)

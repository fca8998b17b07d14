"""A model whose fact-carrying head is known by construction: found, and shown to matter.

A Llama with hand-set weights. The residual stream has one dimension a subject, one an answer, and
marks for "BOS", "subject" and "query" (the last word of a template). Head 2 of layer 1 attends from
the query to the subject, from everywhere else to BOS, and writes the answer that belongs to the
subject it reads. Every other head and FFN writes noise, beside the answers; head 3 of each layer
writes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from factlife.circuits import metrics
from factlife.circuits.ablate import ablate
from factlife.circuits.bits import unpack
from factlife.circuits.measure import Measured, measure, prepare
from factlife.config import Circuits, Profile
from factlife.corpora.fact_probes import Fact, FactProbes, Relation, Template

N = 16
ANSWERS = slice(N, 2 * N)
ONE, SUBJECT, BOS, QUERY = range(2 * N, 2 * N + 4)
NOISE = slice(2 * N + 4, 80)
WIDTH, HEADS, HEAD_DIM = 80, 4, 16
PLANTED = (1, 2)
TEMPLATES = {
    "land": "{} is known far and wide as the old and mighty land of",
    "sport": "{} has for many years now played with joy the game of",
}
KEYS = {"revision": "planted", "stage": "main", "step": 1}


def planted_probes() -> FactProbes:
    """Eight facts in each of two relations, every word of their own."""
    facts = tuple(
        Fact(
            f"{relation}.s{i}", relation, "LOC", f"s{i}", f"a{i}", (), None, None, (), *(None,) * 3
        )
        for k, relation in enumerate(TEMPLATES)
        for i in range(8 * k, 8 * k + 8)
    )
    relations = tuple(
        Relation(
            name, "LOC", (Template(f"{name}.source", text, "source"),),
            tuple(f.answer for f in facts if f.relation == name), "",
        )
        for name, text in TEMPLATES.items()
    )  # fmt: skip
    return FactProbes(facts, relations, ())


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Every word is one token; BOS in front."""
    template = [w for text in TEMPLATES.values() for w in text.split() if w != "{}"]
    words = ["<s>", *(f"s{i}" for i in range(N)), *(f"a{i}" for i in range(N))]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words + template))}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>")


@torch.no_grad()
def planted_model(tokenizer: Any, seed: int = 0) -> Any:
    """The model of this module's docstring."""
    g = torch.Generator().manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=2, head_dim=HEAD_DIM,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, intermediate_size=32,
        max_position_embeddings=64, tie_word_embeddings=False,
        # The rotary angle of the planted head's dimensions stays below 1e-6.
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()

    def noise(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=g) * scale

    for name, p in model.named_parameters():
        p.copy_(torch.ones_like(p) if "norm" in name else torch.zeros_like(p))
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding[:, ONE] = 1
    embedding[:, NOISE] = noise(len(tokenizer), WIDTH - NOISE.start, scale=0.3)
    embedding[0, BOS] = 1
    embedding[tokenizer.convert_tokens_to_ids("of"), QUERY] = 1
    for i in range(N):
        embedding[tokenizer.convert_tokens_to_ids(f"s{i}"), [i, SUBJECT]] = 1
        head[tokenizer.convert_tokens_to_ids(f"a{i}"), N + i] = 20
    for layer, block in enumerate(model.model.layers):
        a = block.self_attn
        for h in range(3):
            rows = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
            if (layer, h) == PLANTED:
                a.q_proj.weight[rows][7, ONE], a.k_proj.weight[rows][7, BOS] = 20, 1
                a.q_proj.weight[rows][6, QUERY], a.k_proj.weight[rows][6, SUBJECT] = 60, 1
                a.v_proj.weight[rows, :N] = torch.eye(N)
                a.o_proj.weight[ANSWERS, rows] = torch.eye(N) * 2.5
            else:
                for matrix in (a.q_proj, a.k_proj):
                    matrix.weight[rows] = noise(HEAD_DIM, WIDTH, scale=0.5)
                a.v_proj.weight[rows, NOISE] = noise(HEAD_DIM, WIDTH - NOISE.start, scale=0.1)
                a.o_proj.weight[NOISE, rows] = noise(WIDTH - NOISE.start, HEAD_DIM, scale=0.1)
        block.mlp.gate_proj.weight.copy_(noise(32, WIDTH, scale=0.1))
        block.mlp.up_proj.weight.copy_(noise(32, WIDTH, scale=0.1))
        block.mlp.down_proj.weight[NOISE] = noise(WIDTH - NOISE.start, 32, scale=0.3)
    return model


class Run(NamedTuple):
    """Everything measured on the planted model."""

    measured: Measured
    roles: dict[tuple[int, int], str]
    ablations: pa.Table


@pytest.fixture(scope="module", params=["per_head_key", "per_edge"])
def run(request: pytest.FixtureRequest) -> Run:
    settings = Circuits(ablation_draws=4, shown_facts=1, threshold=request.param)
    profile = Profile("planted", circuits=settings)
    tokenizer = word_tokenizer()
    model = planted_model(tokenizer)
    prepared = prepare(tokenizer, planted_probes(), profile, None)
    measured = measure(model, tokenizer, prepared, profile, KEYS)
    roles = metrics.head_roles(measured.circuits, profile.circuits)
    return Run(measured, roles, ablate(model, prepared, measured.circuits, roles, profile, KEYS))


def accuracy(run: Run, role: str, condition: str) -> list[float]:
    """Share of facts recalled, draw by draw."""
    chosen = (pc.field("role") == role) & (pc.field("condition") == condition)
    rows = run.ablations.filter(chosen).to_pylist()
    draws = sorted({r["draw"] for r in rows})
    assert all(r["reason"] is None for r in rows)
    return [sum(r["whole_answer"] for r in rows if r["draw"] == d) / N for d in draws]


def test_the_planted_head_is_found(run: Run) -> None:
    """It is active where an answer is predicted and nowhere else: 1 of 14 positions, below theta.

    T_e holds the subject and that position: c^e = 1/2. Every other writing head is active
    everywhere, so that the planted head is alone in its role.
    """
    assert [head for head, role in run.roles.items() if role == "entity"] == [PLANTED]
    assert {head for head, role in run.roles.items() if role == "inactive"} == {(0, 3), (1, 3)}
    assert set(run.roles.values()) == {"entity", "inactive", "general"}
    heads = unpack(run.measured.circuits["heads"], 2 * HEADS).reshape(-1, 2, HEADS)
    predicts = np.asarray(run.measured.circuits["predicts_answer"])
    assert predicts.sum() == N
    assert (heads[:, *PLANTED] == predicts).all()


def test_its_edge_goes_from_the_subject_to_the_query(run: Run) -> None:
    words = {(r["fact_id"], r["position"]): r["token"] for r in run.measured.circuits.to_pylist()}
    rows = [
        r
        for r in run.measured.edges.to_pylist()
        if r["edge"] == "attention" and r["layer"] == PLANTED[0] and PLANTED[1] in r["heads"]
    ]
    assert len(rows) == len(TEMPLATES)
    for r in rows:
        assert words[r["fact_id"], r["source_position"]] == r["fact_id"].split(".")[1]
        assert words[r["fact_id"], r["target_position"]] == "of"
        assert r["contribution"] > 0.1


def test_ablating_it_destroys_recall_and_ablating_its_controls_does_not(run: Run) -> None:
    assert accuracy(run, "none", "intact") == [1.0]
    assert accuracy(run, "entity", "role") == [pytest.approx(1 / N)]  # chance
    controls = accuracy(run, "entity", "control")
    assert len(controls) == 4
    assert min(controls) >= 0.9
    # The planted head is the only control that layer 1 has for a general one: places are changed.
    assert min(accuracy(run, "general", "role")) >= 0.9
    assert max(accuracy(run, "general", "control")) <= 2 / N


def test_the_circuit_alone_keeps_recall_and_a_random_one_of_its_size_does_not(run: Run) -> None:
    assert accuracy(run, "circuit", "circuit_only") == [1.0]
    assert np.mean(accuracy(run, "circuit", "circuit_control")) < 0.9
    assert accuracy(run, "circuit", "none_kept") == [pytest.approx(1 / N)]
    kept = run.ablations.filter(pc.field("condition") == "circuit_only").to_pylist()
    assert all(r["n_ablated"] == 2 * HEADS - r["n_role"] > 0 for r in kept)


def test_a_head_that_writes_nothing_is_not_found() -> None:
    """Intervention: without its output the same head is inactive, and recall is at chance."""
    tokenizer = word_tokenizer()
    model = planted_model(tokenizer)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[ANSWERS] = 0
    profile = Profile("planted", circuits=Circuits(ablation_draws=1))
    prepared = prepare(tokenizer, planted_probes(), profile, None)
    circuits = measure(model, tokenizer, prepared, profile, KEYS).circuits
    roles = metrics.head_roles(circuits, profile.circuits)
    assert roles[PLANTED] == "inactive"
    rows = ablate(model, prepared, circuits, roles, profile, KEYS)
    intact = rows.filter(pc.field("condition") == "intact")["whole_answer"].to_pylist()
    assert sum(intact) <= 2

"""Panels, numbers on them against a slow definition, and swapping weights back."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.dynamics.small import SMALL

from factlife.dynamics.attention import PatchedModel, attended, signature
from factlife.dynamics.evaluate import Panel, eval_rows, make_panel, measure, signature_rows, split
from factlife.dynamics.finetune import Mixture, copy_weights, restorable, restored
from factlife.dynamics.study import World, make_world, new_model
from factlife.errors import UsageError
from factlife.stats import auroc
from factlife.training import ARCHITECTURES


@cache
def world() -> World:
    """Three attributes, one of which (a date) has values of three tokens."""
    from factlife.corpora.biographies import Encoder, Population, WordTokenizer

    people = Population.make(
        30, 0, unseen=10, attributes=("major", "birth_date", "university"), values=40,
        names=(8, 8, 8),
    )  # fmt: skip
    words = WordTokenizer(people)
    encoder = Encoder(people, words.encode, pad=words.pad, bos=words.bos)
    return World(people, encoder, len(words), words.pad, 120)


def panel(name: str = "known", count: int = 7) -> Panel:
    w = world()
    ids = w.population.known if name == "known" else w.population.unseen
    return make_panel(w.encoder, name, ids, count, 5)


def model(arch: str = "llama", seed: int = 0) -> Any:
    return new_model(replace(SMALL, arch=arch, width=32, heads=4), world(), seed)


# ---- panels ----------------------------------------------------------------------------------


def test_a_panel_is_spread_over_its_people_and_always_the_same() -> None:
    one, two = panel(), panel()
    assert torch.equal(one.ids, two.ids) and one.ids.shape[0] == 7
    chosen = [0, 4, 9, 14, 19, 24, 29]
    w = world()
    for row, person in zip(one.ids.tolist(), chosen, strict=True):
        assert w.population.full_name(person) in " ".join(
            world_words()[i] for i in row
        )  # fmt: skip


@cache
def world_words() -> tuple[str, ...]:
    from factlife.corpora.biographies import WordTokenizer

    return WordTokenizer(world().population).words


def test_names_and_values_stand_where_the_panel_says() -> None:
    p, w, words = panel(), world(), world_words()
    s = p.sentences
    for b, person in enumerate([0, 4, 9, 14, 19, 24, 29]):
        row = [words[i] for i in p.ids[b].tolist()]
        values = {w.population.value_text(person, a) for a in range(3)}
        found = {
            " ".join(row[i:j])
            for i, j in zip(s.value_start[b].tolist(), s.value_end[b].tolist(), strict=True)
        }
        assert found == values
        for i, j in zip(s.name_start[b].tolist(), s.name_end[b].tolist(), strict=True):
            assert " ".join(row[i:j]) == w.population.full_name(person)
        assert int(s.name[b].sum()) == 9  # three mentions of three tokens


def test_no_sentence_of_a_panel_is_in_a_template_its_person_is_trained_with() -> None:
    w = world()
    rng = np.random.default_rng(5)
    made = w.encoder.biographies(w.population.known, rng, pool="eval")
    trained = w.population.templates[made.people[:, None], made.order, :20]
    assert not (trained == made.template[..., None]).any()


# ---- numbers ---------------------------------------------------------------------------------


def slow(m: Any, p: Panel) -> tuple[list[list[float]], list[list[bool]]]:
    """Loss and correctness from whole logits, value by value."""
    logits = m(input_ids=p.ids, use_cache=False).logits.detach().double()
    log_q, s = torch.log_softmax(logits, -1), p.sentences
    loss, right = [], []
    for b in range(len(p.ids)):
        spans = list(zip(s.value_start[b].tolist(), s.value_end[b].tolist(), strict=True))
        loss.append([
            -sum(float(log_q[b, k - 1, p.ids[b, k]]) for k in range(i, j)) for i, j in spans
        ])  # fmt: skip
        right.append([
            all(int(logits[b, k - 1].argmax()) == int(p.ids[b, k]) for k in range(i, j))
            for i, j in spans
        ])  # fmt: skip
    return loss, right


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_fast_numbers_are_those_of_the_definition(arch: str) -> None:
    m, p = model(arch).eval(), panel()
    o = measure(m, p, 3, "cpu")
    loss, right = slow(m, p)
    assert o.loss.numpy() == pytest.approx(np.array(loss), abs=1e-4)
    assert o.right.tolist() == right
    logits = m(input_ids=p.ids).logits
    at = p.sentences.value_start - 1
    q = torch.softmax(torch.stack([logits[b, at[b]] for b in range(7)]), -1)
    assert o.top.numpy() == pytest.approx(q.max(-1).values.detach().numpy(), abs=1e-5)
    entropy = -(q * q.log()).sum(-1)
    assert o.entropy.numpy() == pytest.approx(entropy.detach().numpy(), abs=1e-4)


def test_the_size_of_a_forward_changes_nothing() -> None:
    m, p = model(), panel()
    one, all_ = measure(m, p, 1, "cpu"), measure(m, p, 100, "cpu")
    assert one.loss.numpy() == pytest.approx(all_.loss.numpy(), abs=1e-4)
    for a, b in zip(one.signatures, all_.signatures, strict=True):
        assert (a.grouping, a.extraction, a.sharpness) == pytest.approx(
            (b.grouping, b.extraction, b.sharpness), abs=1e-5
        )
    assert [len(x.ids) for x in split(p, 3)] == [3, 3, 1]


def test_signatures_are_of_the_patterns_that_the_model_uses() -> None:
    p = panel()
    patched = PatchedModel(model(seed=0), model(seed=1))
    used = measure(patched, p, 100, "cpu").signatures
    _, reference = attended(model(seed=1).eval(), p.ids)
    for found, pattern in zip(used, reference, strict=True):
        wanted = signature(pattern, p.sentences)
        assert found.extraction == pytest.approx(wanted.extraction, abs=1e-5)
        assert found.grouping == pytest.approx(wanted.grouping, abs=1e-5)


def test_measuring_leaves_the_model_in_training_as_it_was() -> None:
    m = model().train()
    before = copy_weights(m)
    measure(m, panel(), 4, "cpu")
    assert m.training and all(torch.equal(p, before[n]) for n, p in m.named_parameters())
    assert all(p.grad is None for p in m.parameters())


def test_an_untrained_model_knows_nothing_and_rows_say_so() -> None:
    m = model()
    found = {n: measure(m, panel(n), 4, "cpu") for n in ("known", "held_out")}
    known, held = eval_rows(found, {"dynamics_run": "r", "step": 0})
    assert known["accuracy"] < 0.2 and "auroc" not in known
    assert held["auroc"] == auroc(
        found["known"].top.flatten().numpy(), found["held_out"].top.flatten().numpy()
    )
    assert known["loss_nats"] == pytest.approx(float(found["known"].loss.mean()))
    # Values of one token cost about ln(vocabulary), dates three times that.
    assert known["loss_nats"] > math.log(world().vocabulary)
    assert [r["layer"] for r in signature_rows(found, {})] == [0, 1]
    assert {r["population"] for r in signature_rows(found, {})} == {"known"}


# ---- swapping back ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_attention_and_ffn_weights_are_told_apart_in_every_architecture(arch: str) -> None:
    m = model(arch)
    attention, mlp = set(restorable(m, "attention")), set(restorable(m, "mlp"))
    assert attention and mlp and not attention & mlp
    layers = {n for n, _ in m.named_parameters() if ".0." in n or ".1." in n}
    rest = layers - attention - mlp
    assert all("norm" in n or "ln_" in n for n in rest)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_weights_are_put_back_and_the_new_ones_come_again(kind: str) -> None:
    m = model()
    old = copy_weights(m)
    with torch.no_grad():
        for p in m.parameters():
            p.add_(1.0)
    new, names = copy_weights(m), set(restorable(m, kind))
    with restored(m, old, kind):
        for n, p in m.named_parameters():
            assert torch.equal(p, old[n] if n in names else new[n]), n
    assert all(torch.equal(p, new[n]) for n, p in m.named_parameters())


def test_swapping_back_the_damaged_part_heals_the_model() -> None:
    """Intervention: only the FFNs are damaged, and only their old weights help."""
    m, p = model().eval(), panel()
    old, before = copy_weights(m), measure(m, p, 100, "cpu").loss
    with torch.no_grad():
        for n, w in m.named_parameters():
            if ".mlp." in n:
                w.mul_(-3.0)
    assert not torch.allclose(measure(m, p, 100, "cpu").loss, before, atol=1e-3)
    with restored(m, old, "mlp"):
        assert torch.equal(measure(m, p, 100, "cpu").loss, before)
    with restored(m, old, "attention"):
        assert not torch.allclose(measure(m, p, 100, "cpu").loss, before, atol=1e-3)


def test_an_architecture_without_known_names_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter belongs to its attention"):
        restorable(torch.nn.Linear(2, 2), "attention")


def test_a_mixture_weighs_old_and_taught_people() -> None:
    m = Mixture(6, np.array([0, 1]), np.array([4, 5]), 0.25)
    assert m.weights(0).tolist() == [0.25, 0.25, 0, 0, 1, 1]


def test_the_worlds_of_two_sizes_share_their_words() -> None:
    small, large = make_world(SMALL, 40), make_world(SMALL, 48)
    assert (small.vocabulary, small.longest) == (large.vocabulary, large.longest)

"""The reference text: nothing leaks, every relation is exposed alike, the seed says it all."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from factlife.corpora.fact_probes import FactProbes, load_fact_probes
from factlife.corpora.reference_text import (
    Document,
    TextConfig,
    TextPlan,
    names,
    passes,
    plan_text,
    wordings_of,
)
from factlife.corpora.reference_text.text import grammar
from factlife.errors import IntegrityError

PASSES = 60
PROBES = load_fact_probes()
RELATIONS = [r.relation for r in PROBES.relations]
ANSWERS = {f.answer for f in PROBES.facts}
SUBJECTS = {f.subject for f in PROBES.facts}


@dataclass(frozen=True)
class Text:
    """A generated text and what it was made from."""

    seed: int
    plan: TextPlan
    documents: tuple[Document, ...]

    def of_kind(self, kind: str) -> list[Document]:
        return [d for d in self.documents if d.kind == kind]

    @property
    def lines(self) -> str:
        """All documents, small letters, one a line: what a leak is searched in."""
        return "\n".join(d.text for d in self.documents).casefold()


def generate(seed: int, probes: FactProbes = PROBES) -> Text:
    rng = np.random.default_rng(seed)
    config = TextConfig()
    plan = plan_text(probes, config, rng)
    some = itertools.islice(passes(plan, probes, config, rng), PASSES)
    return Text(seed, plan, tuple(itertools.chain.from_iterable(some)))


@pytest.fixture(scope="module", params=[0, 1, 2])
def text(request: pytest.FixtureRequest) -> Text:
    return generate(request.param)


def stands_in(name: str, line: str) -> bool:
    """Whether a name stands in a line as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", line.casefold()) is not None


def words(sentence: str) -> list[str]:
    return re.findall(r"\w+|\{\}", sentence.casefold())


def runs(sentence: str, length: int) -> set[tuple[str, ...]]:
    w = words(sentence)
    return {tuple(w[i : i + length]) for i in range(len(w) - length + 1)}


# ---- what is withheld ------------------------------------------------------------------------


def test_a_quarter_of_each_relation_is_unstated(text: Text) -> None:
    # floor(n/4 + 1/2): 14 -> 4, 20 -> 5, 19 -> 5 (5.25), 17 -> 4 (4.75), 14 -> 4, 12 -> 3,
    # 17 -> 4, 13 -> 3 (3.75), 17 -> 4, 17 -> 4; 40 of 160 in all
    expected = dict(zip(RELATIONS, [4, 5, 5, 4, 4, 3, 4, 3, 4, 4], strict=True))
    assert Counter(f.relation for f in text.plan.unstated) == expected
    assert {*text.plan.stated, *text.plan.unstated} == set(PROBES.facts)
    assert len(text.plan.stated) == 120


def test_another_seed_withholds_other_facts() -> None:
    splits = {frozenset(generate(seed).plan.unstated) for seed in range(3)}
    assert len(splits) == 3


def test_facts_that_the_text_would_give_away_are_always_stated() -> None:
    config = TextConfig(companions=1)
    ever_unstated = set()
    for seed in range(200):
        plan = plan_text(PROBES, config, np.random.default_rng(seed))
        ever_unstated |= {(f.subject, f.answer) for f in plan.unstated}
    never = {(f.subject, f.answer) for f in PROBES.facts} - ever_unstated
    # A fact that may be withheld is missed by 200 draws of a quarter with probability 0.75^200
    # (about 1e-25), so `never` is exactly what the rule keeps.
    assert never == {
        ("Mexico City", "Mexico"),
        ("Panama City", "Panama"),
        ("Germany", "German"),
        ("Buenos Aires", "Argentina"),
        ("Argentina", "Buenos Aires"),
    }


# ---- leaks -----------------------------------------------------------------------------------


def test_no_probe_fact_stands_in_a_probe_template(text: Text) -> None:
    lines = text.lines
    leaked = [
        prompt
        for fact in PROBES.facts
        for relation in PROBES.relations
        for template in relation.templates
        if (prompt := template.prompt(fact.subject)).casefold() in lines
    ]
    assert leaked == []


def test_every_template_is_shown_and_with_companions_only(text: Text) -> None:
    for relation in PROBES.relations:
        companions = [c.subject for c in text.plan.companions[relation.relation]]
        for template in relation.templates:
            pattern = re.compile(".+".join(map(re.escape, template.text.split("{}"))))
            shown = [d for d in text.documents if pattern.search(d.text)]
            assert shown, f"{template.template_id} never occurs"
            for d in shown:
                assert d.form == template.template_id
                assert any(f"{template.prompt(name)} " in d.text for name in companions)


def test_wordings_share_no_four_words_with_a_template() -> None:
    for relation in PROBES.relations:
        of_templates = set().union(*(runs(t.text, 4) for t in relation.templates))
        for wording in wordings_of(relation.relation):
            ours = runs(wording.replace("{s}", "{}").replace("{a}", "answer"), 4)
            assert not ours & of_templates, wording


def test_an_unstated_subject_never_meets_its_answer(text: Text) -> None:
    for fact in text.plan.unstated:
        told = [
            d.text
            for d in text.documents
            if stands_in(fact.subject, d.text)
            and any(stands_in(name, d.text) for name in (fact.answer, *fact.aliases))
        ]
        assert told == [], fact.fact_id


def test_unstated_facts_are_never_written_and_stated_ones_only_in_wordings(text: Text) -> None:
    stated = {f.fact_id: f for f in text.plan.stated}
    written = text.of_kind("stated")
    assert {d.fact_id for d in written} == set(stated)
    for d in written:
        assert d.form.startswith("wording:")
        assert stated[d.fact_id].subject in d.text
        assert stated[d.fact_id].answer in d.text


def test_every_subject_is_a_known_name_stated_or_not(text: Text) -> None:
    mentions = [d.text for d in text.of_kind("mention")]
    for fact in text.plan.unstated:
        assert any(fact.subject in m for m in mentions), fact.subject


def test_mentions_and_neutral_text_name_no_answer(text: Text) -> None:
    for d in text.of_kind("mention"):
        named = [s for s in SUBJECTS if s in d.text]
        rest = d.text.replace(max(named, key=len), "")
        assert not any(stands_in(a, rest) for a in ANSWERS), d.text
    neutral = "\n".join(d.text for d in text.of_kind("neutral"))
    assert [name for name in ANSWERS | SUBJECTS if stands_in(name, neutral)] == []


def test_no_sentence_of_the_grammar_can_name_an_answer_or_subject() -> None:
    table = grammar()
    sentences = [*itertools.chain(*table["scenes"].values()), *table["context"]["sentences"]]
    sentences += table["mention"]["sentences"]
    sentences += itertools.chain(*table["words"].values())
    for name in ANSWERS | SUBJECTS:
        assert not any(stands_in(name, s) for s in sentences), name


def test_unseen_subjects_never_occur(text: Text) -> None:
    lines = text.lines
    assert [u.subject for u in PROBES.unseen if u.subject.casefold() in lines] == []


def test_companions_are_new_names_with_balanced_answers(text: Text) -> None:
    taken = SUBJECTS | ANSWERS | {u.subject for u in PROBES.unseen}
    everyone = [c for group in text.plan.companions.values() for c in group]
    assert len({c.subject for c in everyone}) == len(everyone) == 400
    for c in everyone:
        assert not any(c.subject in t or t in c.subject for t in taken)
    for relation in PROBES.relations:
        counts = Counter(c.answer for c in text.plan.companions[relation.relation])
        given = [counts[candidate] for candidate in relation.candidates]
        assert sum(given) == 40
        assert max(given) - min(given) <= 1


def test_too_small_a_name_grammar_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    table = names.grammar()
    one = {**table, "syllables": {kind: parts[:1] for kind, parts in table["syllables"].items()}}
    monkeypatch.setattr(names, "grammar", lambda: one)
    with pytest.raises(IntegrityError, match=r"names\.toml"):
        plan_text(PROBES, TextConfig(), np.random.default_rng(0))


# ---- exposures -------------------------------------------------------------------------------


def test_every_stated_fact_is_stated_once_a_pass(text: Text) -> None:
    exposures = Counter(d.fact_id for d in text.of_kind("stated"))
    assert set(exposures.values()) == {PASSES}
    by_pass = len(text.documents) // PASSES
    first = text.documents[:by_pass]
    assert Counter(d.fact_id for d in first if d.kind == "stated") == dict.fromkeys(exposures, 1)


def test_companions_and_mentions_take_turns(text: Text) -> None:
    per_relation = Counter(d.relation for d in text.of_kind("companion"))
    assert set(per_relation.values()) == {PASSES * TextConfig().companions_a_pass}
    counts = Counter(
        max((s for s in SUBJECTS if s in d.text), key=len) for d in text.of_kind("mention")
    )
    assert max(counts.values()) - min(counts.values()) <= 1


def test_wordings_and_templates_are_drawn_evenly_in_every_relation(text: Text) -> None:
    share = TextConfig().template_share
    for relation in PROBES.relations:
        stated = Counter(d.form for d in text.of_kind("stated") if d.relation == relation.relation)
        assert_even(stated, [f"wording:{i}" for i in range(10)], sum(stated.values()), 1 / 10)
        shown = Counter(
            d.form for d in text.of_kind("companion") if d.relation == relation.relation
        )
        ids = [t.template_id for t in relation.templates]
        assert_even(shown, ids, sum(shown.values()), share / len(ids))


def assert_even(counts: Counter[str], forms: Iterable[str], n: int, p: float) -> None:
    """Binomial counts within five standard deviations: one false alarm in about 2e6 draws."""
    allowed = 5 * math.sqrt(n * p * (1 - p))
    for form in forms:
        assert abs(counts[form] - n * p) <= allowed, (form, counts[form], n * p)


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_the_same_shape_of_wordings(relation: str) -> None:
    wordings = wordings_of(relation)
    for w in wordings:
        assert w.count("{s}") == w.count("{a}") == 1
        assert w.endswith(".")
    first = [w for w in wordings if w.startswith("{s}")]
    answer_first = [w for w in wordings if w.index("{a}") < w.index("{s}")]
    assert (len(set(wordings)), len(first), len(answer_first)) == (10, 3, 2)
    # an answer-first wording says nothing at the place where a probe asks
    assert not set(first) & set(answer_first)


def test_a_name_that_ends_in_a_point_is_not_followed_by_another(text: Text) -> None:
    assert not any(".." in d.text for d in text.documents)
    assert any(d.text.endswith("Washington D.C.") for d in text.documents)


def test_documents_are_whole_sentences_without_open_slots(text: Text) -> None:
    for d in text.documents:
        assert "{" not in d.text, d.text
        assert d.text[0].isupper() or d.text[0].isdigit(), d.text
        assert d.text.endswith("."), d.text
        assert not re.search(r"\ba [aeiou]", d.text), d.text


# ---- determinism -----------------------------------------------------------------------------

DIGEST = """
import hashlib, itertools
import numpy as np
from factlife.corpora.fact_probes import load_fact_probes
from factlife.corpora.reference_text import TextConfig, passes, plan_text
probes, config, rng = load_fact_probes(), TextConfig(), np.random.default_rng(5)
plan = plan_text(probes, config, rng)
some = itertools.islice(passes(plan, probes, config, rng), 3)
text = chr(10).join(d.text for p in some for d in p)
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_one_seed_is_one_text_in_every_process() -> None:
    digests = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    rng, config = np.random.default_rng(5), TextConfig()
    plan = plan_text(PROBES, config, rng)
    some = itertools.islice(passes(plan, PROBES, config, rng), 3)
    here = "\n".join(d.text for p in some for d in p)
    assert digests == {hashlib.sha256(here.encode()).hexdigest()}


def test_a_longer_text_begins_with_the_shorter() -> None:
    rng, config = np.random.default_rng(0), TextConfig()
    plan = plan_text(PROBES, config, rng)
    first = next(passes(plan, PROBES, config, rng))
    assert tuple(first) == generate(0).documents[: len(first)]

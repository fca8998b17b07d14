"""Every rule finds the defect it is for, planted into a sound split, and none in that split."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from factlife.corpora.fictional import lint
from factlife.corpora.fictional.background import articles
from factlife.corpora.fictional.passage import passages
from factlife.corpora.fictional.tables import rows

Split = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def sound() -> Split:
    """Forty-eight passages: each kind once, in all four blocks."""
    return {**rows(passages("lint", "public", 48)), "background": list(articles(3_000, "lint"))}


def first(split: Split, depth: str) -> dict[str, Any]:
    return next(q for q in split["probes"] if q["depth"] == depth)


def passage_of(split: Split, probe: Mapping[str, Any]) -> dict[str, Any]:
    return next(p for p in split["passages"] if p["passage_id"] == probe["passage_id"])


def drop_paraphrase(s: Split) -> None:
    s["passages"][3]["paraphrases"].pop()


def drop_facts(s: Split) -> None:
    del s["passages"][3]["facts"][7:]


def shorten(s: Split) -> None:
    s["passages"][3]["text"] = s["passages"][3]["text"][:500] + "."


def shorten_paraphrase(s: Split) -> None:
    text = s["passages"][3]["paraphrases"][2]
    s["passages"][3]["paraphrases"][2] = text[: int(len(text) * 0.67)]


def lose_a_fact(s: Split) -> None:
    passage = s["passages"][3]
    year = next(f["object"] for f in passage["facts"] if f["object_type"] == "year")
    passage["paraphrases"][4] = passage["paraphrases"][4].replace(year, "some time ago")


def lose_a_target(s: Split) -> None:
    probe = first(s, "semantic")
    passage = passage_of(s, probe)
    passage["paraphrases"][4] = passage["paraphrases"][4].replace(probe["target"], "someone")


def repeat_wording(s: Split) -> None:
    s["passages"][3]["paraphrases"][0] = s["passages"][3]["text"].replace(" the ", " that ")


def repeat_text(s: Split) -> None:
    s["passages"][3]["paraphrases"][0] = s["passages"][3]["text"]


def slip(s: Split) -> None:
    s["passages"][3]["text"] += " The the end of a old story."


def leave_markup(s: Split) -> None:
    s["passages"][3]["paraphrases"][1] += " It was [built|made] by {maker}."


def unbalance(s: Split) -> None:
    for p in s["passages"][:4]:
        p["block"] = "A"


def name_a_control(s: Split) -> None:
    control = next(p for p in s["passages"] if p["block"] == "control")
    injected = next(p for p in s["passages"] if p["block"] == "A")
    injected["text"] += f" Compare {control['subject']}."


def lose_a_probe(s: Split) -> None:
    s["probes"].remove(first(s, "semantic"))


def lose_all_probes(s: Split) -> None:
    s["probes"] = [q for q in s["probes"] if q["passage_id"] != s["passages"][3]["passage_id"]]


def orphan_a_probe(s: Split) -> None:
    s["passages"].pop()


def empty_prefix(s: Split) -> None:
    first(s, "semantic")["prefix"] = ""


def pad_prefix(s: Split) -> None:
    first(s, "semantic")["prefix"] += " "


def repeat_probe(s: Split) -> None:
    semantic = [q for q in s["probes"] if q["depth"] == "semantic"]
    semantic[1]["prefix"] = semantic[0]["prefix"]


def stop_after_target(s: Split) -> None:
    first(s, "compositional")["target"] += "."


def target_in_prefix(s: Split) -> None:
    probe = first(s, "semantic")
    probe["prefix"] = f"Everybody knows {probe['target'].lower()}, for the answer was always"


def share_target(s: Split) -> None:
    probe = first(s, "semantic")
    other = next(q for q in s["probes"] if q["passage_id"] != probe["passage_id"])
    other["target"] = probe["target"]


def leak_target(s: Split) -> None:
    probe = first(s, "semantic")
    other = next(p for p in s["passages"] if p["passage_id"] != probe["passage_id"])
    other["paraphrases"][8] += f" Nobody mentioned {probe['target']}."


def misquote(s: Split) -> None:
    first(s, "memorization")["prefix"] += " the"


def copy_into_semantic(s: Split) -> None:
    probe = first(s, "semantic")
    words = passage_of(s, probe)["paraphrases"][0].split()
    probe["prefix"] = " ".join(words[:12])


def shorten_semantic(s: Split) -> None:
    first(s, "semantic")["prefix"] = "It was made by"


def other_semantic_target(s: Split) -> None:
    first(s, "semantic")["target"] = first(s, "compositional")["target"] + "ova"


def one_hop(s: Split) -> None:
    probe = first(s, "compositional")
    probe["support"], probe["hops"] = probe["support"][-1:], 1


def miscount_hops(s: Split) -> None:
    first(s, "compositional")["hops"] += 1


def foreign_support(s: Split) -> None:
    first(s, "compositional")["support"][0] = "fk-public-99999.nothing"


def support_astray(s: Split) -> None:
    first(s, "compositional")["support"].reverse()


def shortcut(s: Split) -> None:
    probe = first(s, "compositional")
    passage = passage_of(s, probe)
    named = next(
        e["name"] for e in passage["entities"] if lint.tx.holds(probe["prefix"], e["name"])
    )
    passage["paraphrases"][5] += f" In short, {named} leads to {probe['target']}."


def shortcut_by_another_form_of_the_name(s: Split) -> None:
    """The prefix has the full name, the sentence the surname alone."""
    for probe in s["probes"]:
        for e in passage_of(s, probe)["entities"]:
            named = lint.tx.holds(probe["prefix"], e["name"]) and len(e["aliases"]) > 1
            if probe["depth"] == "compositional" and named:
                text = f" In short, {e['aliases'][1]} leads to {probe['target']}."
                passage_of(s, probe)["text"] += text
                return


def name_nothing(s: Split) -> None:
    first(s, "compositional")["prefix"] = "The one that everybody there would name first was"


def background_names(s: Split) -> None:
    s["background"][0]["text"] += f" It was near {s['probes'][0]['target']}."


PLANTS: list[tuple[str, Callable[[Split], None]]] = [
    ("nine_paraphrases", drop_paraphrase),
    ("eight_to_fourteen_facts", drop_facts),
    ("passages_are_of_length", shorten),
    ("paraphrases_are_length_matched", shorten_paraphrase),
    ("every_text_states_every_fact", lose_a_fact),
    ("every_text_states_every_target", lose_a_target),
    ("texts_are_worded_apart", repeat_wording),
    ("texts_are_unique", repeat_text),
    ("prose_is_clean", slip),
    ("prose_is_clean", leave_markup),
    ("blocks_are_balanced", unbalance),
    ("blocks_do_not_name_one_another", name_a_control),
    ("five_probes_of_each_depth", lose_a_probe),
    ("five_probes_of_each_depth", lose_all_probes),
    ("five_probes_of_each_depth", orphan_a_probe),
    ("no_probe_is_empty", empty_prefix),
    ("no_probe_is_empty", pad_prefix),
    ("no_probe_is_there_twice", repeat_probe),
    ("targets_have_no_trailing_punctuation", stop_after_target),
    ("prefixes_do_not_hold_their_target", target_in_prefix),
    ("targets_belong_to_one_passage", share_target),
    ("targets_belong_to_one_passage", leak_target),
    ("memorization_is_verbatim", misquote),
    ("semantic_is_rephrased", copy_into_semantic),
    ("semantic_is_rephrased", shorten_semantic),
    ("semantic_asks_what_memorization_asks", other_semantic_target),
    ("support_leads_to_the_target", one_hop),
    ("support_leads_to_the_target", miscount_hops),
    ("support_leads_to_the_target", foreign_support),
    ("support_leads_to_the_target", support_astray),
    ("no_sentence_is_a_shortcut", shortcut),
    ("no_sentence_is_a_shortcut", shortcut_by_another_form_of_the_name),
    ("compositional_names_something", name_nothing),
    ("background_names_no_injected_entity", background_names),
]


def test_a_sound_split_has_no_defect(sound: Split) -> None:
    assert {name: n for name, n in lint.defects(sound).items() if n} == {}


def test_every_rule_has_a_planted_defect() -> None:
    assert {name for name, _ in PLANTS} == {rule.name for rule in lint.RULES}


@pytest.mark.parametrize(
    ("name", "plant"), PLANTS, ids=[f"{name}-{plant.__name__}" for name, plant in PLANTS]
)
def test_a_planted_defect_is_found(name: str, plant: Callable[[Split], None], sound: Split) -> None:
    split = copy.deepcopy(sound)
    plant(split)
    rule = next(r for r in lint.RULES if r.name == name)
    assert rule.bad_rows(sound) == []
    bad = rule.bad_rows(split)
    assert bad
    assert len(bad) < len(split[rule.config]) / 2

"""What every split must hold to: plain functions from the tables to the rows that break them.

They see the published rows alone and know nothing of how these were made; the generator is
held to the same promises by its own checks. Missing references are findings, never exceptions.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from factlife.corpora.expectations import Rule
from factlife.corpora.fictional import text as tx

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]

BLOCKS = ("A", "B", "C", "control")
N_PARAPHRASES, N_PROBES = 9, 5
DEPTHS = ("memorization", "semantic", "compositional")
WORDS, RATIO, FACTS = (150, 350), (0.85, 1.15), (8, 14)
MAX_SHARED_5GRAMS, SEMANTIC_WORDS = 0.5, 8


def _texts(passage: Row) -> list[str]:
    return [passage["text"], *passage["paraphrases"]]


def _where(rows: Iterable[Row], bad: Callable[[Row], bool]) -> list[Row]:
    return [row for row in rows if bad(row)]


def _passages(tables: Tables) -> dict[str, Row]:
    return {p["passage_id"]: p for p in tables["passages"]}


def _by_passage(tables: Tables) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = defaultdict(list)
    for probe in tables["probes"]:
        out[probe["passage_id"]].append(probe)
    return out


def _of_depth(tables: Tables, depth: str) -> list[tuple[Row, Row]]:
    """(probe, its passage) of one depth; probes of unknown passages are another rule's finding."""
    passages = _passages(tables)
    return [
        (p, passages[p["passage_id"]])
        for p in tables["probes"]
        if p["depth"] == depth and p["passage_id"] in passages
    ]


# ---- passages --------------------------------------------------------------------------------


def nine_paraphrases(tables: Tables) -> list[Row]:
    """A passage has nine paraphrases."""
    return _where(tables["passages"], lambda p: len(p["paraphrases"]) != N_PARAPHRASES)


def eight_to_fourteen_facts(tables: Tables) -> list[Row]:
    """A passage states 8 to 14 facts, each with an id of its own."""
    low, high = FACTS
    return _where(
        tables["passages"],
        lambda p: not low <= len({f["fact_id"] for f in p["facts"]}) == len(p["facts"]) <= high,
    )


def passages_are_of_length(tables: Tables) -> list[Row]:
    """A passage has 150 to 350 words."""
    low, high = WORDS
    return _where(tables["passages"], lambda p: not low <= tx.n_words(p["text"]) <= high)


def paraphrases_are_length_matched(tables: Tables) -> list[Row]:
    """A paraphrase has 0.85 to 1.15 times the words of its passage."""
    low, high = RATIO

    def bad(p: Row) -> bool:
        n = max(tx.n_words(p["text"]), 1)
        return any(not low <= tx.n_words(q) / n <= high for q in p["paraphrases"])

    return _where(tables["passages"], bad)


def every_text_states_every_fact(tables: Tables) -> list[Row]:
    """The object of each fact stands, to the letter, in the passage and in each paraphrase."""

    def bad(p: Row) -> bool:
        return any(not tx.holds(t, f["object"]) for t in _texts(p) for f in p["facts"])

    return _where(tables["passages"], bad)


def every_text_states_every_target(tables: Tables) -> list[Row]:
    """Every probed target stands in the passage and in each paraphrase."""
    probes = _by_passage(tables)

    def bad(p: Row) -> bool:
        targets = {q["target"] for q in probes[p["passage_id"]]}
        return any(not tx.holds(text, target) for text in _texts(p) for target in targets)

    return _where(tables["passages"], bad)


def texts_are_worded_apart(tables: Tables) -> list[Row]:
    """Any two texts of a passage share at most half of the shorter one's 5-grams."""

    def bad(p: Row) -> bool:
        grams = [tx.ngrams(t, 5) for t in _texts(p)]
        return any(tx.shared(a, b) > MAX_SHARED_5GRAMS for a, b in combinations(grams, 2))

    return _where(tables["passages"], bad)


def texts_are_unique(tables: Tables) -> list[Row]:
    """No text and no subject is there twice."""
    texts = Counter(t for p in tables["passages"] for t in _texts(p))
    subjects = Counter(p["subject"] for p in tables["passages"])
    return _where(
        tables["passages"],
        lambda p: subjects[p["subject"]] > 1 or any(texts[t] > 1 for t in _texts(p)),
    )


_SLIPS = re.compile(
    r"[{}\[\]<>|]|  | [,.;:]|[,.;:]{2}|\b(\w+) \1\b|\ba [aeio]|\ban (?!hour|honour)[^aeiouAEIOU]|"
    r"(?:^|[.!?]\s)[a-z]|[^.!?\n](?:$|\n)"
)


def prose_is_clean(tables: Tables) -> list[Row]:
    """No empty text, leftover markup, doubled word or space, `a` for `an`, or unended sentence."""
    return _where(
        tables["passages"],
        lambda p: any(not t.strip() or _SLIPS.search(t) is not None for t in _texts(p)),
    )


def blocks_are_balanced(tables: Tables) -> list[Row]:
    """Within a kind, the sizes of the blocks A, B, C and control differ by at most one."""
    sizes: dict[str, Counter[str]] = defaultdict(lambda: Counter(dict.fromkeys(BLOCKS, 0)))
    for p in tables["passages"]:
        sizes[p["kind"]][p["block"]] += 1
    uneven = {kind for kind, n in sizes.items() if max(n.values()) - min(n.values()) > 1}
    return _where(tables["passages"], lambda p: p["kind"] in uneven)


def blocks_do_not_name_one_another(tables: Tables) -> list[Row]:
    """A passage's subject is named in no passage of another block: arms and controls stay apart."""
    return _where(tables["passages"], _Mentions(tables).subject_in_other_block)


class _Mentions:
    """Which passages name a string, found through the words each passage holds."""

    def __init__(self, tables: Tables) -> None:
        self.passages = list(tables["passages"])
        self.holding: dict[str, set[int]] = defaultdict(set)
        for i, p in enumerate(self.passages):
            for word in set(re.findall(r"\w+", "\n".join(_texts(p)))):
                self.holding[word].add(i)

    def of(self, phrase: str) -> list[Row]:
        """The passages that name the phrase in any of their texts."""
        words = re.findall(r"\w+", phrase)
        candidates = set.intersection(*(self.holding[w] for w in words)) if words else set()
        return [
            p
            for p in (self.passages[i] for i in sorted(candidates))
            if any(tx.holds(t, phrase) for t in _texts(p))
        ]

    def subject_in_other_block(self, p: Row) -> bool:
        """Whether a passage of another block names the subject of this one."""
        return any(q["block"] != p["block"] for q in self.of(p["subject"]))


# ---- probes ----------------------------------------------------------------------------------


def five_probes_of_each_depth(tables: Tables) -> list[Row]:
    """A passage has five probes of each depth, and no probe is without its passage."""
    count = Counter((q["passage_id"], q["depth"]) for q in tables["probes"])
    known = _passages(tables)
    short = {p for p in known if any(count[p, d] != N_PROBES for d in DEPTHS)}
    bare = [p for p in tables["passages"] if not any(count[p["passage_id"], d] for d in DEPTHS)]
    bad = _where(
        tables["probes"], lambda q: q["passage_id"] in short or q["passage_id"] not in known
    )
    return bad + bare


def no_probe_is_empty(tables: Tables) -> list[Row]:
    """Prefix and target hold words, with no space at either end."""
    return _where(
        tables["probes"],
        lambda q: any(not q[k].strip() or q[k] != q[k].strip() for k in ("prefix", "target")),
    )


def no_probe_is_there_twice(tables: Tables) -> list[Row]:
    """No two probes have one prefix."""
    count = Counter(q["prefix"] for q in tables["probes"])
    return _where(tables["probes"], lambda q: count[q["prefix"]] > 1)


def targets_have_no_trailing_punctuation(tables: Tables) -> list[Row]:
    """A target begins and ends with a letter or digit."""
    return _where(
        tables["probes"], lambda q: not (q["target"][:1].isalnum() and q["target"][-1:].isalnum())
    )


def prefixes_do_not_hold_their_target(tables: Tables) -> list[Row]:
    """A target is not in its own prefix, in whatever case."""
    return _where(
        tables["probes"], lambda q: tx.holds(q["prefix"].casefold(), q["target"].casefold())
    )


def targets_belong_to_one_passage(tables: Tables) -> list[Row]:
    """No target is probed in two passages, nor so much as named in another passage."""
    mentions = _Mentions(tables)
    owners: dict[str, set[str]] = defaultdict(set)
    for q in tables["probes"]:
        owners[q["target"]].add(q["passage_id"])
    for target, owner in owners.items():
        owner.update(p["passage_id"] for p in mentions.of(target))
    return _where(tables["probes"], lambda q: len(owners[q["target"]]) > 1)


def memorization_is_verbatim(tables: Tables) -> list[Row]:
    """A memorization prefix, a space and its target stand in the passage to the letter."""
    return [
        q
        for q, p in _of_depth(tables, "memorization")
        if not tx.holds(p["text"], f"{q['prefix']} {q['target']}")
    ]


def semantic_is_rephrased(tables: Tables) -> list[Row]:
    """A semantic prefix has at least 8 words and shares no 8-gram with any text of its passage."""
    texts = {
        p["passage_id"]: [f" {' '.join(tx.words(t))} " for t in _texts(p)]
        for p in tables["passages"]
    }

    def bad(q: Row) -> bool:
        grams = [f" {' '.join(g)} " for g in tx.ngrams(q["prefix"], 8)]
        short = len(tx.words(q["prefix"])) < SEMANTIC_WORDS
        return short or any(g in t for g in grams for t in texts[q["passage_id"]])

    return [q for q, _ in _of_depth(tables, "semantic") if bad(q)]


def semantic_asks_what_memorization_asks(tables: Tables) -> list[Row]:
    """The five semantic targets of a passage are its five memorization targets."""
    targets: dict[tuple[str, str], list[str]] = defaultdict(list)
    for q in tables["probes"]:
        targets[q["passage_id"], q["depth"]].append(q["target"])
    return [
        q
        for q, p in _of_depth(tables, "semantic")
        if sorted(targets[p["passage_id"], "semantic"])
        != sorted(targets[p["passage_id"], "memorization"])
    ]


def support_leads_to_the_target(tables: Tables) -> list[Row]:
    """Support names facts of the passage, the last with the target as its object; hops counts them.

    A compositional probe needs at least two facts, the others exactly one.
    """
    facts = {
        p["passage_id"]: {f["fact_id"]: f["object"] for f in p["facts"]} for p in tables["passages"]
    }

    def bad(q: Row) -> bool:
        known, support = facts.get(q["passage_id"], {}), q["support"]
        enough = len(support) >= 2 if q["depth"] == "compositional" else len(support) == 1
        sound = len(set(support)) == len(support) == q["hops"] and set(support) <= set(known)
        return not (enough and sound and known[support[-1]] == q["target"])

    return _where(tables["probes"], bad)


def no_sentence_is_a_shortcut(tables: Tables) -> list[Row]:
    """No sentence of any text holds a compositional target and an entity named in its prefix.

    Names count in every form that the column `entities` lists.
    """
    sentences = {
        p["passage_id"]: [s for t in _texts(p) for s in tx.sentences(t)] for p in tables["passages"]
    }
    return [
        q
        for q, p in _of_depth(tables, "compositional")
        if _shortcut(q, p, sentences[p["passage_id"]])
    ]


def _shortcut(probe: Row, passage: Row, sentences: Sequence[str]) -> bool:
    forms = [tuple(e["aliases"]) for e in passage["entities"]]
    target = {probe["target"], *(a for f in forms if probe["target"] in f for a in f)}
    named = {a for f in forms if tx.holds_any(probe["prefix"], f) for a in f} - target
    return any(tx.holds_any(s, target) and tx.holds_any(s, named) for s in sentences)


def compositional_names_something(tables: Tables) -> list[Row]:
    """A compositional prefix names an entity of its passage, or nobody could answer it."""
    return [
        q
        for q, p in _of_depth(tables, "compositional")
        if not any(tx.holds_any(q["prefix"], e["aliases"]) for e in p["entities"])
    ]


# ---- background ------------------------------------------------------------------------------


def background_names_no_injected_entity(tables: Tables) -> list[Row]:
    """No background text names an entity of a passage (countries, the setting, are no entities)."""
    names = {a for p in tables["passages"] for e in p["entities"] for a in e["aliases"]}
    first_words: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        first_words[re.findall(r"\w+", name)[0]].append(name)

    def bad(d: Row) -> bool:
        held = set(re.findall(r"\w+", d["text"]))
        return any(tx.holds_any(d["text"], first_words[w]) for w in held if w in first_words)

    return _where(tables.get("background", ()), bad)


_PASSAGES = (
    nine_paraphrases,
    eight_to_fourteen_facts,
    passages_are_of_length,
    paraphrases_are_length_matched,
    every_text_states_every_fact,
    every_text_states_every_target,
    texts_are_worded_apart,
    texts_are_unique,
    prose_is_clean,
    blocks_are_balanced,
    blocks_do_not_name_one_another,
)
_PROBES = (
    five_probes_of_each_depth,
    no_probe_is_empty,
    no_probe_is_there_twice,
    targets_have_no_trailing_punctuation,
    prefixes_do_not_hold_their_target,
    targets_belong_to_one_passage,
    memorization_is_verbatim,
    semantic_is_rephrased,
    semantic_asks_what_memorization_asks,
    support_leads_to_the_target,
    no_sentence_is_a_shortcut,
    compositional_names_something,
)
RULES: tuple[Rule, ...] = (
    *(Rule("passages", f.__name__, f) for f in _PASSAGES),
    *(Rule("probes", f.__name__, f) for f in _PROBES),
    Rule("background", "background_names_no_injected_entity", background_names_no_injected_entity),
)


def defects(tables: Tables) -> dict[str, int]:
    """Rows that break each rule, by the rule's name; all 0 for a sound split."""
    return {rule.name: len(rule.bad_rows(tables)) for rule in RULES}

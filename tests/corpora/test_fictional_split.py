"""Whole splits: sound for any seed, the same everywhere, streamed, and kept apart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from factlife.corpora.fictional import lint, product
from factlife.corpora.fictional.background import MIN_WORDS, articles, write_background
from factlife.corpora.fictional.names import is_real
from factlife.corpora.fictional.passage import passages
from factlife.corpora.fictional.private import content_sha256
from factlife.corpora.fictional.quality import Spread, measure, named_in_prefix
from factlife.corpora.fictional.tables import rows
from factlife.corpora.fictional.text import holds, ngrams, sentences, shared
from factlife.corpora.fictional.world import BLOCKS, number_words, subjects
from factlife.errors import UsageError

ROOT = Path(__file__).parents[2]

_HASH = """
from factlife.corpora.fictional.passage import passages
from factlife.corpora.fictional.private import content_sha256
from factlife.corpora.fictional.tables import rows
print(content_sha256(rows(passages("everywhere", "public", 16))))
"""


_TEXTS = """
import sys
from factlife.corpora.fictional.passage import passages
texts = "".join(t for p in passages("everywhere", "public", 16) for t in p.texts)
sys.stdout.buffer.write(texts.encode("utf-8"))
"""


# ---- soundness -------------------------------------------------------------------------------


def test_the_public_split_has_no_defect() -> None:
    assert {name: n for name, n in lint.defects(product.public_rows()).items() if n} == {}


@pytest.mark.parametrize("seed", ["1", "2", "3", "4", "5"])
def test_five_other_seeds_have_no_defect(seed: str) -> None:
    split = {**rows(passages(seed, "public", 160)), "background": []}
    assert len(split["passages"]) == 160
    assert len(split["probes"]) == 2400
    assert {name: n for name, n in lint.defects(split).items() if n} == {}


def test_the_public_split_has_three_blocks_of_forty_and_forty_controls_balanced_in_kind() -> None:
    found = product.public_rows()["passages"]
    assert Counter(p["block"] for p in found) == dict.fromkeys(BLOCKS, 40)
    by_kind = Counter((p["kind"], p["block"]) for p in found)
    assert len({kind for kind, _ in by_kind}) == 12
    for kind in {kind for kind, _ in by_kind}:
        assert len({by_kind[kind, block] for block in BLOCKS}) == 1


def test_subjects_are_linked_inside_their_block() -> None:
    found = list(subjects("links", "public", 160))
    homes = {str(s.values["S"]): s.block for s in found}
    links = [
        (s.block, homes[str(v)])
        for s in found
        for slot, v in s.values.items()
        if slot != "S" and str(v) in homes
    ]
    assert len(links) > 0
    by_name = {s.values["S"].name: s for s in found}  # type: ignore[union-attr]
    linked = [
        (s, by_name[v.name])
        for s in found
        for slot, v in s.values.items()
        if slot != "S" and not isinstance(v, str) and v.name in by_name
    ]
    assert len(linked) > 80
    assert all(a.block == b.block and a.country == b.country for a, b in linked)


def test_countries_are_made_up_and_differ_within_a_group() -> None:
    for seed in ("1", "2", product.PUBLIC_SEED):
        made = [(s.index // 160, s.country) for s in subjects(seed, "public", 480)]
        found = {(group, c.name, c.adjective, c.culture.name) for group, c in made}
        names = Counter((group, name) for group, name, *_ in found)
        assert set(names.values()) == {1}
        assert not [name for _, name in names if is_real(name)]


# ---- sameness --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "LC_ALL": "C"}]
)
def test_hash_order_and_locale_do_not_matter(settings: dict[str, str]) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "benchmark"), **settings}
    done = subprocess.run(
        [sys.executable, "-c", _HASH], env=env, capture_output=True, text=True, check=True
    )
    here = content_sha256(rows(passages("everywhere", "public", 16)))
    assert done.stdout.strip() == here
    assert here == GOLDEN


GOLDEN = "f17fb4b6acdcbc4f1749d67ca755415ffe5d7b057d4a78feb7593c094cc21ca9"


def _interpreter(version: str) -> str | None:
    """A Python of that version that runs: on the path, or kept by pyenv."""
    found = [shutil.which(f"python{version}")]
    found += map(str, sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python")))
    for command in filter(None, found):
        if subprocess.run([command, "-c", ""], capture_output=True, check=False).returncode == 0:
            return command
    return None


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_writes_the_same_texts(version: str) -> None:
    """The generator needs nothing but Python, so a bare interpreter will do."""
    command = _interpreter(version)
    if command is None:
        pytest.skip(f"no Python {version} here")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "benchmark"), "PYTHONHASHSEED": "7"}
    done = subprocess.run([command, "-c", _TEXTS], env=env, capture_output=True, check=True)
    here = "".join(t for p in passages("everywhere", "public", 16) for t in p.texts)
    assert done.stdout.decode("utf-8") == here


def test_the_answers_were_read_in_these_very_rows() -> None:
    found = content_sha256(product.public_rows())
    assert product.measured()["answerability"]["content_sha256"] == found


def test_another_seed_gives_other_passages() -> None:
    one = next(passages("a", "public", 1))
    other = next(passages("b", "public", 1))
    assert one.text != other.text


# ---- size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 7])
def test_any_size_can_be_made(size: int) -> None:
    assert len(list(passages("small", "public", size))) == size


def test_size_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="size must be at least 1"):
        list(passages("none", "public", 0))


def test_a_large_split_streams_without_growing() -> None:
    """A third group of 160 subjects takes the place of the second: nothing piles up."""
    stream = subjects("large", "public", 1_000_000)
    for _ in islice(stream, 170):
        pass
    tracemalloc.start()
    for _ in islice(stream, 160):
        pass
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2_000_000


def test_a_written_split_holds_the_rows_of_the_generator(tmp_path: Path) -> None:
    assert product.write_split(tmp_path, "w", 20) == 20
    made = rows(passages("w", "public", 20))
    for name in ("passages", "probes"):
        assert pq.read_table(tmp_path / f"{name}.parquet").to_pylist() == made[name]


# ---- background ------------------------------------------------------------------------------


def test_background_reaches_the_words_asked_for_and_stops_there(tmp_path: Path) -> None:
    found = list(articles(5_000))
    total = sum(d["n_words"] for d in found)
    assert 5_000 <= total < 5_000 + found[-1]["n_words"]
    assert write_background(tmp_path / "b.parquet", 5_000) == total
    assert pq.read_table(tmp_path / "b.parquet").to_pylist() == found
    assert MIN_WORDS == 2_000_000


def test_background_of_the_same_seed_as_a_split_shares_no_name_with_it() -> None:
    split = rows(passages("same", "public", 24))
    split["background"] = list(articles(30_000, "same"))
    assert lint.background_names_no_injected_entity(split) == []


def test_no_words_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="min_words must be at least 1"):
        next(articles(0))


# ---- measures, by hand -----------------------------------------------------------------------


def test_measures_of_text_by_hand() -> None:
    # "a b c d e f" has two 5-grams, "a b c d e" one, and that one is among the two.
    assert shared(ngrams("a b c d e f", 5), ngrams("A, b c d e.", 5)) == 1.0
    assert shared(ngrams("a b c d e f", 5), ngrams("b c d e g", 5)) == 0.0
    assert shared(set(), set()) == 0.0
    assert sentences("He came in 1900. It rained! Who?\n\nNobody.") == [
        "He came in 1900.",
        "It rained!",
        "Who?",
        "Nobody.",
    ]
    assert holds("The Tarveskar Medal", "Tarveskar")
    assert not holds("The Tarveskarian Medal", "Tarveskar")
    assert [number_words(n) for n in (7, 19, 20, 42, 99, 100)] == [
        "seven",
        "nineteen",
        "twenty",
        "forty-two",
        "ninety-nine",
        "100",
    ]


def _row(name: str, kind: str, text: str, paraphrase: str) -> dict[str, Any]:
    return {
        "passage_id": name,
        "kind": kind,
        "text": text,
        "paraphrases": [paraphrase],
        "facts": [{}, {}],
        "entities": [{"aliases": ["Zed"]}],
    }


def test_quality_by_hand() -> None:
    one = _row("1", "ship", "Zed a b c d e", "a b c d e f")
    two = _row("2", "ship", "a b c d e e", "g h i j k l m n o")
    probes = [{"passage_id": "1", "prefix": "a", "target": "Zed Hall", "hops": 2}]
    q = measure([one, two], probes)
    assert q.passage_words == Spread(6, 6, 6)
    assert q.length_ratio == Spread(1.0, 1.25, 1.5)  # 6/6 and 9/6
    assert q.type_token == Spread(5 / 6, (1 + 5 / 6) / 2, 1.0)
    # 5-grams: {Zabcd, abcde} and {abcde, bcdee}: one of two is shared.
    assert q.same_kind == Spread(0.5, 0.5, 0.5)
    assert q.other_kind == Spread(0, 0, 0)
    assert q.seen_elsewhere == Spread(0.5, 0.5, 0.5)
    # Within 1: {Zabcd, abcde} and {abcde, bcdef} share one of two; within 2 nothing.
    assert q.within == Spread(0.0, 0.25, 0.5)
    assert q.vocabulary == 15  # a to o, without Zed
    assert q.hops == {2: 1}
    # Zed is no common word; a is one, in both passages, and says nothing about the answer.
    assert named_in_prefix([one, two], [{**probes[0], "target": "Zed a"}]) == 0
    assert named_in_prefix([one, two], [{**probes[0], "prefix": "in zed"}]) == 1

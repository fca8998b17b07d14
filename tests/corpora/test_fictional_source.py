"""The loader and the lint of files in the schema of the published corpus."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factlife.corpora.fictional.product import as_source, public_rows
from factlife.corpora.fictional.source import (
    lint_report,
    lint_source,
    mean_length_ratio,
    read_source,
    to_source,
)
from factlife.errors import IntegrityError, UsageError

TEXT = "Arn was built by Bo One. Its mast was cut by Bo Two. It was lost at Cape Three."


def passage(**changes: Any) -> dict[str, Any]:
    """One sound object: five probes of each depth, one paraphrase of the same length."""
    base = {
        "train_context": TEXT,
        "paraphrases": [
            "Bo One built Arn. Bo Two cut the mast. Arn was lost then and there at Cape Three."
        ],
        "mem_input": ["Arn was built by"] + [f"Its mast was cut by{' ' * i}" for i in range(1, 5)],
        "mem_target": ["Bo One"] + ["Bo Two"] * 4,
        "gen_input": [f"Number {i}: the builder of Arn was" for i in range(5)],
        "gen_target": ["Bo One"] * 5,
        "hard_gen_input": [f"Number {i}: the ship of Bo One ended at" for i in range(5)],
        "hard_gen_target": ["Cape Three"] * 5,
    }
    return {**base, **changes}


def counts(*objects: dict[str, Any], n_injected: int = 120) -> dict[str, tuple[int, int]]:
    from factlife.corpora.fictional.source import source_passage

    source = [source_passage(o, "here") for o in objects]
    return {d.name: (d.bad, d.of) for d in lint_source(source, n_injected)}


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_every_form_of_the_file_is_read_alike(tmp_path: Path, ending: str) -> None:
    objects = [passage(), passage(paraphrases=[])]
    path = tmp_path / f"corpus.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(objects), path)
    elif ending == "json":
        path.write_text(json.dumps(objects))
    else:
        path.write_text("\n".join(map(json.dumps, objects)) + "\n")
    found = read_source(path)
    assert [p.text for p in found] == [TEXT, TEXT]
    assert [len(p.paraphrases) for p in found] == [1, 0]
    assert found[0].probes["memorization"][0] == ("Arn was built by", "Bo One")
    assert found[0].probes["compositional"][4] == (
        "Number 4: the ship of Bo One ended at",
        "Cape Three",
    )


def test_a_sound_object_has_no_defect() -> None:
    found = counts(passage())
    joined = found.pop("compositional targets that stand in the passage")
    assert joined == (5, 5)
    assert {name: bad for name, (bad, _) in found.items() if bad} == {}
    assert found["memorization targets shared between injected passages"] == (0, 2)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "memorization probes that are not verbatim",
            {
                "mem_input": ["Arn had been built by"]
                + [f"Its mast was cut by{' ' * i}" for i in range(4)]
            },
            (1, 5),
        ),
        (
            "compositional targets that end in punctuation",
            {"hard_gen_target": ["Cape Three."] * 2 + ["Cape Three"] * 3},
            (2, 5),
        ),
        (
            "compositional targets that stand in the passage",
            {"hard_gen_target": ["Cape Four"] * 2 + ["Cape Three."] * 3},
            (3, 5),
        ),
        # Without Bo Two in the paraphrase, 4 of its 15 targets are missing.
        (
            "(paraphrase, target) pairs without the target",
            {"paraphrases": ["Bo One built Arn. The mast was cut. Arn was lost at Cape Three."]},
            (4, 15),
        ),
        (
            "paraphrases shorter than 0.85 or longer than 1.15",
            {"paraphrases": ["Bo One, Bo Two, Cape Three."]},
            (1, 1),
        ),
        ("empty prefixes or targets", {"gen_target": ["", *["Bo One"] * 4]}, (1, 15)),
        (
            "targets inside their own prefix",
            {"gen_input": [f"Bo One, number {i}, is" for i in range(5)]},
            (5, 15),
        ),
        (
            "probes whose prefix is there twice",
            {"gen_input": ["The builder of Arn was"] * 5},
            (4, 15),
        ),
    ],
)
def test_each_defect_is_counted(
    name: str, change: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert counts(passage(**change))[name] == expected


def test_shared_targets_count_once_each_and_only_among_injected() -> None:
    name = "memorization targets shared between injected passages"
    other = passage(mem_target=["Bo One", "Bo Six", "Bo Six", "Bo Six", "Bo Six"])
    # Distinct targets: Bo One (in both), Bo Two, Bo Six.
    assert counts(passage(), other)[name] == (1, 3)
    assert counts(passage(), other, n_injected=1)[name] == (0, 2)


def test_the_report_prints_every_defect(tmp_path: Path) -> None:
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps([passage()]))
    report = lint_report(path)
    assert report.splitlines()[0] == f"{path}: 1 passages"
    assert "  memorization probes that are not verbatim: 0 of 5 (0.0 %)" in report.splitlines()
    # 18 words of 19.
    assert report.splitlines()[-1] == "  mean length of a paraphrase over its passage: 0.95"


def test_our_own_split_in_that_schema_has_no_defect(tmp_path: Path) -> None:
    split = public_rows()
    found = {d.name: d for d in lint_source(as_source(split))}
    assert {d.name: d.bad for d in found.values() if d.bad and d.sound_is_zero} == {}
    assert found["memorization probes that are not verbatim"].of == 800
    path = tmp_path / "ours.jsonl"
    objects = to_source(split["passages"], split["probes"])
    path.write_text("\n".join(map(json.dumps, objects)))
    assert read_source(path) == as_source(split)


def test_no_paraphrase_at_all_has_no_length_ratio() -> None:
    from factlife.corpora.fictional.source import source_passage

    assert mean_length_ratio([source_passage(passage(paraphrases=[]), "here")]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_context": None}, "no text in train_context"),
        ({"mem_input": ["a"] * 4}, "mem_input holds 4 strings, not 5"),
        ({"gen_target": [1, 2, 3, 4, 5]}, "gen_target is not a list of strings"),
        ({"hard_gen_input": None}, "hard_gen_input is not a list of strings"),
    ],
)
def test_an_object_outside_the_schema_is_a_clear_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "corpus.json"
    broken = copy.deepcopy(passage())
    path.write_text(json.dumps([passage(), {**broken, **change}]))
    with pytest.raises(IntegrityError, match=f"object 1: {message}"):
        read_source(path)


def test_a_missing_unreadable_or_odd_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        read_source(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_source(tmp_path / "a.json")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UsageError, match="the ending must be"):
        read_source(tmp_path / "a.csv")

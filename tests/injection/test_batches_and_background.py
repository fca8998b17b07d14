"""What the model reads: packed background, passages at the heads of rows, positions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.injection.small import TOKENIZER, plan

from factlife.errors import IntegrityError, UsageError
from factlife.injection.background import PackedText, documents, shuffled
from factlife.injection.batches import TOO_LONG, TRUNCATED, InjectionSource, make_heads
from factlife.injection.measure import encoder_of_many, plain_encoder, plan_tables

EXACT = hypothesis_settings(derandomize=True, database=None, deadline=None, max_examples=60)
TEXTS = [f"{'word ' * (i % 5 + 1)}{i}" for i in range(40)]
ENCODE, ENCODE_ALL = plain_encoder(TOKENIZER), encoder_of_many(TOKENIZER)


def numbers(text: str) -> list[int]:
    """One token a character, so that rows can be read off."""
    return [ord(c) for c in text]


def packed(texts: Sequence[str], context: int = 5) -> PackedText:
    return PackedText(lambda: iter(texts), lambda some: list(map(numbers, some)), context, 0)


# ---- background ------------------------------------------------------------------------------


def test_rows_are_the_documents_laid_end_to_end() -> None:
    # "abc" EOS "de" EOS "fghi" EOS -> a b c 0 d | e 0 f g h
    rows = packed(["abc", "de", "fghi"]).take(2)
    assert rows.tolist() == [[97, 98, 99, 0, 100], [101, 0, 102, 103, 104]]


@EXACT
@given(
    st.lists(st.text(st.sampled_from("abc"), max_size=9), min_size=20, max_size=40),
    st.integers(2, 6),
    st.lists(st.integers(1, 3), max_size=4),
)
def test_the_stream_is_whole_and_a_saved_place_goes_on(
    texts: list[str], context: int, takes: list[int]
) -> None:
    stream = [t for text in texts for t in (*numbers(text), 0)]
    one = packed(texts, context)
    got: list[int] = []
    for rows in takes:
        if len(got) + rows * context > len(stream):
            break
        got += one.take(rows).flatten().tolist()
    assert got == stream[: len(got)]
    two = packed(texts, context)
    two.seek(json.loads(json.dumps(one.position())))
    if len(got) + context <= len(stream):
        assert (
            two.take(1).tolist() == one.take(1).tolist() == [stream[len(got) : len(got) + context]]
        )


def test_texts_are_tokenised_together_as_each_alone() -> None:
    odd = [*TEXTS, "", " ", "naïve\n\nwords", "<eos>", "x" * 5000]
    assert [list(ids) for ids in ENCODE_ALL(odd)] == [list(ENCODE(text)) for text in odd]


def test_no_more_than_the_next_documents_is_read() -> None:
    """A stream is not read to its end, and one that ends in mid-block is used up."""
    read: list[str] = []

    def source() -> Iterator[str]:
        for i in range(10**6):
            read.append(str(i))
            yield "abcd"

    text = PackedText(source, lambda some: list(map(numbers, some)), 5, 0)
    text.take(3)
    assert len(read) == 64
    text.take(62)
    assert len(read) == 128 and text.position() == {"document": 65, "token": 0}


def test_text_that_ends_too_soon_says_so() -> None:
    source = packed(["abc", "de"])
    source.take(1)
    with pytest.raises(UsageError, match="exhausted after 2 documents: give more text"):
        source.take(1)


def files(folder: Path) -> Iterator[Path]:
    pq.write_table(pa.table({"text": TEXTS, "n": range(40)}), folder / "b.parquet")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (folder / "b.txt").write_text("\n\n\n".join(TEXTS) + "\n")
    yield from (folder / f"b.{e}" for e in ("parquet", "jsonl", "txt"))


def test_every_kind_of_file_holds_the_same_documents(tmp_path: Path) -> None:
    orders = [list(documents(str(path), 3)()) for path in files(tmp_path)]
    assert orders[0] == orders[1] == orders[2] != TEXTS
    assert sorted(orders[0]) == sorted(TEXTS)
    other = list(documents(str(tmp_path / "b.txt"), 4)())
    assert other != orders[0] and sorted(other) == sorted(TEXTS)


@pytest.mark.parametrize("buffer", [1, 3, 100])
def test_shuffling_loses_and_doubles_nothing(buffer: int) -> None:
    assert sorted(shuffled(iter(TEXTS), 0, buffer)) == sorted(TEXTS)


def test_a_streamed_data_set_is_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself streams a folder of files as it streams a repo."""
    (tmp_path / "data").mkdir()
    lines = "".join(json.dumps({"words": t}) + "\n" for t in TEXTS)
    (tmp_path / "data" / "train.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    read = list(documents("data:default:words", 3)())
    assert sorted(read) == sorted(TEXTS)
    assert read == list(documents("data:default:words", 3)())
    with pytest.raises(UsageError, match="no text in that field; the data set has words"):
        next(documents("data:default:body", 0)())
    with pytest.raises(UsageError, match="cannot be streamed"):
        next(documents("no/such/repo:default:words", 0)())


@pytest.mark.parametrize("source", ["nowhere", "a:b", "reference:x", "absent.txt"])
def test_an_unknown_source_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="--background"):
        documents(source, 0)


@pytest.mark.parametrize(
    ("name", "text"), [("b.jsonl", '{"body": 1}\n'), ("b.jsonl", "{"), ("b.parquet", "x"),
                       ("b.jsonl", '{"text": 3}\n')],
)  # fmt: skip
def test_a_file_without_text_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(IntegrityError, match="text"):
        list(documents(str(tmp_path / name), 0)())


def test_built_in_and_reference_text_follow_from_their_seeds() -> None:
    def first(source: str, seed: int) -> str:
        return next(documents(source, seed)())

    assert first("built-in", 1) == first("built-in", 1) != first("built-in", 2)
    assert first("reference:1", 0) == first("reference:1", 0) != first("reference:2", 0)


# ---- passages in batches ---------------------------------------------------------------------


def source(**changes: Any) -> tuple[InjectionSource, Any, Any]:
    made = plan(**changes)
    text = PackedText(lambda: iter(["filler text"] * 9999), ENCODE_ALL, made.settings.context, 0)
    heads = make_heads(made, ENCODE, 0, made.settings.context)
    return InjectionSource(text, made.settings.batch_rows, heads), made, heads


def test_a_text_stands_at_the_head_of_its_row_and_the_row_follows() -> None:
    batches, made, _ = source()
    plain = PackedText(lambda: iter(["filler text"] * 9999), ENCODE_ALL, made.settings.context, 0)
    texts = {a.passage.passage_id: a.passage.texts for a in made.assignments}
    for step in range(made.schedule.steps):
        got, rows = batches.next_batch(), plain.take(made.settings.batch_rows)
        assert got.labels is None  # every token carries loss
        for line in (x for x in made.lines if x.step == step):
            ids = [*ENCODE(texts[line.passage][line.variant]), 0]
            whole = [*ids, *rows[line.row].tolist()][: made.settings.context]
            rows[line.row] = torch.tensor(whole)
        assert torch.equal(got.ids, rows)


def test_a_place_in_the_batches_goes_on() -> None:
    one, *_ = source()
    for _ in range(4):
        one.next_batch()
    two, *_ = source()
    two.seek(json.loads(json.dumps(one.position())))
    for _ in range(5):
        assert torch.equal(one.next_batch().ids, two.next_batch().ids)


def test_a_long_text_is_cut_off_and_recorded() -> None:
    _, made, heads = source(context=10)
    rows = plan_tables(made, heads)["injections"].to_pylist()
    assert rows and all(r["reason"] == TRUNCATED for r in rows)
    assert all(r["n_seen"] == 10 < r["n_tokens"] for r in rows)


def test_a_long_text_is_laid_over_rows() -> None:
    batches, made, heads = source(context=10, long="split", batch_rows=32)
    texts = {a.passage.passage_id: a.passage.texts for a in made.assignments}
    got = [batches.next_batch().ids for _ in range(4)][3]
    first = heads.by_step[3][0].line
    ids = [*ENCODE(texts[first.passage][first.variant]), 0]
    assert got.flatten().tolist()[: len(ids)] == ids
    rows = plan_tables(made, heads)["injections"].to_pylist()
    assert {r["reason"] for r in rows} == {None}
    seen = [r for r in rows if r["passage_id"] == first.passage and r["step"] == 3]
    assert sum(r["n_seen"] for r in seen) == len(ids)


def test_a_long_text_is_left_out_and_recorded() -> None:
    batches, made, heads = source(context=10, long="exclude")
    tables = plan_tables(made, heads)
    assert {r["reason"] for r in tables["injections"].to_pylist()} == {TOO_LONG}
    passages = tables["injection_passages"].to_pylist()
    assert {r["reason"] for r in passages if r["arm"] != "control"} == {TOO_LONG}
    assert {r["exposures"] for r in passages} == {0}
    assert batches.next_batch().ids.shape == (8, 10)


def test_more_texts_than_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="take 6 rows, a batch has 5: raise batch_rows"):
        source(batch_rows=5)

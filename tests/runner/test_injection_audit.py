"""No corpus of real facts is injected before the starts were asked what they know of it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.injection.small import SETTINGS, corpus, facts
from tests.tiny import byte_level_tokenizer, random_model, save_series

from factlife.config import Profile
from factlife.errors import IntegrityError, PartialError, UsageError
from factlife.injection.corpus import BUILT_IN, Corpus, load_corpus
from factlife.injection.measure import plain_encoder
from factlife.runner.audit import audited
from factlife.runner.injection import Files, Source, Track, plans_of, run_injection
from factlife.runner.progress import Silent
from factlife.runner.run import Options, run
from factlife.series.integrity import check_weights
from factlife.series.local import Revision, Series, open_series
from factlife.store import RunStore

SOURCE = corpus(16)
SMALL = replace(SETTINGS, seeds=1, starts=("mid", "late"), corpus="tiny")


class Told(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """The last revision was taught the probes of p05; the one before it knows nothing."""
    folder = save_series(tmp_path_factory.mktemp("made") / "series", (0, 30, 100))
    model = random_model("llama", 2, scale=0.1).requires_grad_(True).train()
    encode = plain_encoder(byte_level_tokenizer())
    rows = [encode(f"{p.prefix} {p.target}") for p in SOURCE.probes if p.passage_id == "p05"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        for ids in (torch.tensor([row]) for row in rows):
            model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder / "step100")
    return open_series(str(folder))


def source(revision: Revision, opened: list[str] | None = None) -> Source:
    def files() -> contextlib.AbstractContextManager[Files]:
        if opened is not None:
            opened.append(revision.name)
        return contextlib.nullcontext(Files(revision.path))

    return Source(revision, check_weights(revision.path).identity, files)


@contextlib.contextmanager
def tracked(root: Path, series: Series, source_of: Corpus = SOURCE, **changes: Any) -> Any:
    profile = Profile("x", tracks=("injection",), injection=replace(SMALL, **changes))
    with RunStore.writer(root, {"identity": {"profile": "x"}}) as store:
        yield Track(store, series, profile, source_of, facts(), torch.device("cpu"), Told())


def ask(root: Path, series: Series, opened: list[str] | None = None, **changes: Any) -> Track:
    with tracked(root, series, **changes) as track:
        found: Track = audited(track, [source(r, opened) for r in series.revisions])
        return found


def test_a_corpus_that_a_start_knows_is_refused_by_name(series: Series, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as refused:
        ask(tmp_path / "run", series)
    message = str(refused.value)
    assert "tiny: step100 knows 1 of 16 passages already (p05;" in message
    assert "--known exclude" in message and "--known keep" in message
    assert refused.value.exit_code == 4
    rows = RunStore(tmp_path / "run").read("injection_audit").to_pylist()
    assert len(rows) == 32 and {r["revision"] for r in rows} == {"step30", "step100"}
    (known,) = [r for r in rows if r["known"]]
    assert (known["passage_id"], known["revision"], known["use"]) == ("p05", "step100", "refused")
    assert known["exact"] == 3 and known["foils"] == 9


def test_known_passages_are_left_out_of_every_start(series: Series, tmp_path: Path) -> None:
    track = ask(tmp_path / "run", series, known="exclude")
    assert [p.passage_id for p in SOURCE.passages if p not in track.corpus.passages] == ["p05"]
    assert not track.corpus.probes_of(["p05"]) and track.flags == ("known_excluded:1",)
    assert "1 of 16 passages are known to a start and excluded (p05)" in track.progress.warnings[0]  # type: ignore[attr-defined]


def test_excluding_is_recorded_in_every_run(series: Series, tmp_path: Path) -> None:
    with tracked(tmp_path / "run", series, known="exclude", starts=("late",)) as track:
        sources = [source(r) for r in series.revisions]
        track = audited(track, sources)
        plans = plans_of(track.profile, track.corpus, series.revisions)
        run_injection(track, plans, sources)
    store = RunStore(tmp_path / "run")
    (row,) = store.read("injection_runs").to_pylist()
    assert "known_excluded:1" in row["flags"]
    assert "p05" not in store.read("injection_passages")["passage_id"].to_pylist()
    assert "excluded" in store.read("injection_audit")["use"].to_pylist()


def test_known_passages_are_kept_if_asked_for(series: Series, tmp_path: Path) -> None:
    track = ask(tmp_path / "run", series, known="keep")
    assert track.corpus is SOURCE and track.flags == ("known_kept:1",)


def test_a_start_that_knows_nothing_needs_no_leave(series: Series, tmp_path: Path) -> None:
    track = ask(tmp_path / "run", series, starts=("mid",))
    assert track.corpus is SOURCE and not track.flags


def test_what_was_asked_is_not_asked_again(series: Series, tmp_path: Path) -> None:
    opened: list[str] = []
    for _ in range(2):
        ask(tmp_path / "run", series, opened, known="keep")
    assert opened == ["step30", "step100"]
    ask(tmp_path / "run", series, opened, known="keep", source_of=corpus(15))
    assert opened == ["step30", "step100"] * 2  # another corpus


def test_the_built_in_corpus_is_not_asked(series: Series, tmp_path: Path) -> None:
    opened: list[str] = []
    track = ask(tmp_path / "run", series, opened, source_of=replace(SOURCE, name=BUILT_IN))
    assert not opened and track.corpus.name == BUILT_IN


def test_shards_that_are_put_together_ask_nothing(series: Series, tmp_path: Path) -> None:
    with (
        tracked(tmp_path / "run", series) as track,
        pytest.raises(PartialError, match="is not audited yet: run the missing shards"),
    ):
        audited(track, [source(r) for r in series.revisions], measure=False)


def test_arms_by_place_cannot_leave_passages_out(series: Series, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="place decides its arm: none can be left out"):
        ask(tmp_path / "run", series, known="exclude", arms="published")


def test_a_run_refuses_before_anything_is_measured(series: Series, tmp_path: Path) -> None:
    """From the outside, with the corpus in a folder; then the way out that the message names."""
    folder = tmp_path / "real"
    folder.mkdir()
    passages = [
        {"passage_id": p.passage_id, "kind": p.kind, "block": p.block, "text": p.texts[0],
         "paraphrases": list(p.texts[1:])}
        for p in SOURCE.passages
    ]  # fmt: skip
    probes = [
        {"probe_id": q.probe_id, "passage_id": q.passage_id, "depth": q.depth,
         "prefix": q.prefix, "target": q.target}
        for q in SOURCE.probes
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(passages), folder / "passages.parquet")
    pq.write_table(pa.Table.from_pylist(probes), folder / "probes.parquet")
    assert load_corpus(str(folder)).probes == SOURCE.probes
    made = replace(SMALL, corpus=str(folder), starts=("late",))
    profile = Profile("x", tracks=("recall", "injection"), injection=made)
    with pytest.raises(IntegrityError, match="knows 1 of 16 passages already"):
        run(series, profile, tmp_path / "run", Options(), Told())
    assert not RunStore(tmp_path / "run").parts("recall")
    profile = replace(profile, injection=replace(made, known="exclude"))
    done = run(series, profile, tmp_path / "other", Options(), Told())
    assert done.injected is not None and done.injected.measured == ("late-seed0",)
    again = run(series, profile, tmp_path / "other", Options(), Told())
    assert again.injected is not None and again.injected.reused == ("late-seed0",)

"""The audit that stands before every injection of a corpus but the built-in one.

Numbers of a passage that the model knows already are no acquisition. Each start revision is asked
(`injection.audit`) before anything is measured; what was found lies in the table
`injection_audit`, and is not asked again. The setting `known` says what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from factlife.config import Injection
from factlife.errors import IntegrityError, PartialError, UsageError
from factlife.injection.audit import FOILS, LEVEL, audit
from factlife.injection.corpus import BUILT_IN, Corpus
from factlife.runner.injection import Source, Track, choose_starts
from factlife.series.loading import load, load_tokenizer
from factlife.store import sha256_json

Row = dict[str, Any]
USE = {"refuse": "refused", "exclude": "excluded", "keep": "kept"}
SHOWN = 5


def audited(track: Track, sources: Sequence[Source], *, measure: bool = True) -> Track:
    """The track with a corpus that may be injected; equal to the given one if nothing is known.

    Passages that any start knows are left out of all of them (`exclude`), so that every start is
    taught the same.

    Args:
        measure: ask the starts that are not in the table yet.

    Raises:
        PartialError: a start is not in the table, and may not be asked.
        IntegrityError: a start knows passages, and `known` is `refuse`.
        UsageError: passages cannot be left out, because their place decides their arm; or too few
            to audit.
    """
    settings = track.profile.injection
    if track.corpus.name == BUILT_IN:
        return track
    revisions = [s.revision for s in sources]
    starts = {s.revision for s in choose_starts(revisions, settings.starts)}
    known: dict[str, str] = {}
    for source in sources:
        if source.revision.name in starts:
            for row in _rows(track, source, measure=measure):
                if row["known"]:
                    known.setdefault(row["passage_id"], source.revision.name)
    if not known:
        return track
    if settings.known == "refuse":
        raise IntegrityError(_refusal(track, known))
    flag = f"known_{USE[settings.known]}:{len(known)}"
    track.progress.warn(
        f"{track.corpus.name}: {len(known)} of {len(track.corpus.passages)} passages are known to "
        f"a start and {USE[settings.known]} ({_names(known)}); see the table injection_audit"
    )
    corpus = track.corpus if settings.known == "keep" else _without(track.corpus, known, settings)
    return replace(track, corpus=corpus, flags=(*track.flags, flag))


def _without(corpus: Corpus, known: dict[str, str], settings: Injection) -> Corpus:
    if settings.arms == "published":
        raise UsageError(
            f"{corpus.name}: {len(known)} passages are known, and with arms = published a "
            "passage's place decides its arm: none can be left out; use --known keep, or another "
            "profile"
        )
    return corpus.without(known)


def _names(known: dict[str, str]) -> str:
    shown = ", ".join(sorted(known)[:SHOWN])
    return shown if len(known) <= SHOWN else f"{shown} and {len(known) - SHOWN} more"


def _refusal(track: Track, known: dict[str, str]) -> str:
    start = next(iter(known.values()))
    return (
        f"{track.corpus.name}: {start} knows {len(known)} of {len(track.corpus.passages)} passages "
        f"already ({_names(known)}; all of them in {track.store.root}/tables/injection_audit): "
        "leave them out with --known exclude, inject them all the same with --known keep, or start "
        "from an earlier revision"
    )


def _rows(track: Track, source: Source, *, measure: bool) -> list[Row]:
    """What the audit of a start found, from the table if it is there."""
    partition = {"revision": source.revision.name}
    foils = _foils(track.corpus)
    identity = sha256_json(
        {
            "weights": source.identity, "corpus": track.corpus.fingerprint(), "foils": foils,
            "level": LEVEL, "bos": track.profile.model.bos, "known": track.profile.injection.known,
        }
    )  # fmt: skip
    if not track.store.find_part("injection_audit", partition, identity):
        if not measure:
            raise PartialError(
                f"{source.revision.name}: {track.corpus.name} is not audited yet: run the missing "
                "shards, or the same command again"
            )
        rows = _measured(track, source, foils)
        track.store.write_part("injection_audit", rows, partition, identity)
    found: list[Row] = track.store.read_part("injection_audit", partition).to_pylist()
    return found


def _foils(corpus: Corpus) -> int:
    """As many rivals as a small corpus has: other targets of the depth that has fewest."""
    by_depth: dict[str, set[str]] = {}
    for p in corpus.probes:
        by_depth.setdefault(p.depth, set()).add(p.target)
    passages = len({p.passage_id for p in corpus.probes})
    fewest = min((len(targets) for targets in by_depth.values()), default=0)
    return max(1, min(FOILS, fewest - 1, passages - 1))


def _measured(track: Track, source: Source, foils: int) -> list[Row]:
    track.progress.start("auditing the corpus", 1, "starts")
    with source.files() as files:
        loaded = load(
            files.folder,
            track.profile.model,
            track.device,
            trust_remote_code=track.trust_remote_code,
            allow_pickle=track.allow_pickle,
            tokenizer=load_tokenizer(files.tokenizer) if files.tokenizer else None,
        )
        found = audit(
            loaded.model, loaded.tokenizer, track.corpus, max_length=loaded.max_length,
            bos=track.profile.model.bos,
            batch_tokens=track.profile.execution.batch_tokens, foils=foils,
        )  # fmt: skip
    track.progress.advance(1, source.revision.name)
    track.progress.finish()
    use = USE[track.profile.injection.known]
    return [
        {
            **asdict(a),
            "revision": source.revision.name,
            "foils": foils,
            "use": use if a.known else "new",
        }
        for a in found
    ]

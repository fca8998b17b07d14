"""Background text: what a run is trained on beside the passages, packed into rows.

built-in                   articles of the fictional-knowledge register, seeded, without end
reference                  the text of the reference series (of text seed 0; reference:3 of seed 3)
FILE.parquet, .jsonl       column `text`; FILE.txt: documents parted by empty lines
repo:config:text_field     a Hub data set, streamed by the `datasets` library

Documents are laid end to end, each followed by the end-of-text token, and cut into rows. Files and
streams are shuffled in a seeded buffer. The place in the text is (documents, tokens of the next
one) before the next token that is read, so that it can be saved and taken up again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64
from torch import Tensor

from factlife.errors import IntegrityError, PartialError, UsageError

BUILT_IN, REFERENCE = "built-in", "reference"
BUFFER = 1000
_ENDINGS = (".parquet", ".jsonl", ".txt")
_UNBOUNDED = 10**12

_AT_ONCE = 64  # documents that are tokenised together

Encode = Callable[[str], Sequence[int]]
EncodeAll = Callable[[Sequence[str]], Sequence[Sequence[int]]]
Documents = Callable[[], Iterator[str]]


def documents(source: str, seed: int) -> Documents:
    """The texts of a source, in an order that follows from `seed`; each call begins anew.

    Raises:
        UsageError: no such source.
    """
    if source == BUILT_IN:
        return lambda: _articles(seed)
    texts = _unshuffled(source)
    return lambda: shuffled(texts(), seed)


def _unshuffled(source: str) -> Documents:
    name, _, text_seed = source.partition(":")
    if name == REFERENCE and (not text_seed or text_seed.isdecimal()):
        return lambda: _reference(int(text_seed or 0))
    if Path(source).suffix in _ENDINGS:
        path = Path(source)
        if not path.is_file():
            raise UsageError(f"--background {source}: no such file")
        return lambda: _file(path)
    if source.count(":") == 2:
        repo, config, field = source.split(":")
        return lambda: _streamed(repo, config, field)
    raise UsageError(
        f"--background {source!r}: give {BUILT_IN}, {REFERENCE}, a {', '.join(_ENDINGS)} file, "
        "or repo:config:text_field of a Hub data set"
    )


def refuse_unreadable(source: str) -> None:
    """Read the first text of a file or stream: hours of measuring must not end in a wrong name.

    Raises:
        UsageError, IntegrityError, PartialError: as reading it later would.
    """
    if source == BUILT_IN:
        return
    texts = _unshuffled(source)
    if not source.startswith(REFERENCE):
        next(texts(), None)


def shuffled(texts: Iterator[str], seed: int, buffer: int = BUFFER) -> Iterator[str]:
    """Hand out texts from a buffer in random order; the same seed gives the same order."""
    rng = np.random.default_rng(seed)
    held = list(islice(texts, buffer))
    for text in texts:
        i = int(rng.integers(len(held)))
        held[i], out = text, held[i]
        yield out
    yield from (held[i] for i in rng.permutation(len(held)))


def _articles(seed: int) -> Iterator[str]:
    from factlife.corpora.fictional.background import SEED, articles

    yield from (row["text"] for row in articles(_UNBOUNDED, f"{SEED}/{seed}"))


def _reference(seed: int) -> Iterator[str]:
    """What the reference series of this seed was trained on: the same facts stay unstated."""
    from factlife.corpora.fact_probes import load_fact_probes
    from factlife.corpora.reference_text import TextConfig, passes, plan_text

    probes, rng = load_fact_probes(), np.random.default_rng(seed)
    plan = plan_text(probes, TextConfig(), rng)
    yield from (d.text for one in passes(plan, probes, TextConfig(), rng) for d in one)


def _file(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
                yield from (_text(t, path) for t in batch.column(0).to_pylist())
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                yield from (_text(json.loads(x)["text"], path) for x in lines if x.strip())
        else:
            with path.open(encoding="utf-8") as lines:
                yield from _paragraphs(lines)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise IntegrityError(
            f"{path}: no background text can be read from it ({str(error).splitlines()[0]}); a "
            ".parquet or .jsonl file holds it in a column `text`"
        ) from error


def _text(value: Any, path: Path) -> str:
    if not isinstance(value, str):
        raise IntegrityError(f"{path}: column text holds {type(value).__name__}, not text")
    return value


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line.rstrip("\n"))
        elif held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def _streamed(repo: str, config: str, field: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "streaming background text needs the datasets library: python -m pip install "
            "'factlife[data]'"
        ) from error
    try:
        load: Any = datasets.load_dataset  # type: ignore[attr-defined, unused-ignore]
        rows = load(repo, config or None, split="train", streaming=True)
        for row in rows:
            if not isinstance(row.get(field), str):
                raise UsageError(
                    f"--background {repo}:{config}:{field}: no text in that field; the data set "
                    f"has {', '.join(row)}"
                )
            yield row[field]
    except UsageError:
        raise
    except ConnectionError as error:
        raise PartialError(
            f"background {repo}: the Hub does not answer ({error}); run the same command again, or "
            "give another --background"
        ) from error
    except Exception as error:  # the library raises what its many readers raise
        raise UsageError(
            f"--background {repo}:{config}:{field} cannot be streamed: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


class PackedText:
    """Rows of `context` tokens cut from documents that lie end to end. Shapes: n rows, c tokens.

    Args:
        source: gives the documents from the first one on.
        encode_all: token ids of several texts, without special tokens.
        context: tokens of a row.
        eos: the token after every document.
    """

    def __init__(self, source: Documents, encode_all: EncodeAll, context: int, eos: int) -> None:
        self._source, self._encode_all = source, encode_all
        self._context, self._eos = context, eos
        self._restart(0, 0)

    def _restart(self, document: int, token: int) -> None:
        self._texts = islice(self._source(), document, None)
        self._document, self._token = document, token
        self._ahead: deque[list[int]] = deque()  # documents read but not used up, oldest first

    def take(self, rows: int) -> Int64[Tensor, "n c"]:
        """The next rows.

        Raises:
            UsageError: the text ends before them.
        """
        needed = rows * self._context
        made: list[int] = []
        while len(made) < needed:
            if not self._ahead:
                self._read()
            piece = self._ahead[0][self._token : self._token + needed - len(made)]
            made += piece
            self._token += len(piece)
            if self._token == len(self._ahead[0]):
                self._ahead.popleft()
                self._document, self._token = self._document + 1, 0
        return torch.tensor(made, dtype=torch.int64).reshape(rows, self._context)

    def _read(self) -> None:
        texts = list(islice(self._texts, _AT_ONCE))
        if not texts:
            raise UsageError(
                f"the background text is exhausted after {self._document} documents: give more "
                "text with --background, or lower steps, batch_rows or context"
            )
        self._ahead += ([*ids, self._eos] for ids in self._encode_all(texts))

    def position(self) -> dict[str, int]:
        """Where the next token stands."""
        return {"document": self._document, "token": self._token}

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a position that `position` returned."""
        self._restart(position["document"], position["token"])

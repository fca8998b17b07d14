"""Background text: articles in the same register about subjects that no passage names.

The names come from their own third of the name space, so no article can name an entity of
a public or private passage, whatever the seeds. Text streams: memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.corpora.fictional.draws import Draws
from factlife.corpora.fictional.passage import article_text
from factlife.corpora.fictional.tables import BACKGROUND, Row
from factlife.corpora.fictional.text import n_words
from factlife.corpora.fictional.world import subjects
from factlife.errors import UsageError
from factlife.store import atomic_open

SEED = "factlife-background-1"
MIN_WORDS = 2_000_000
_UNBOUNDED = 10**9
_BATCH = 1_000


def articles(min_words: int = MIN_WORDS, seed: str = SEED) -> Iterator[Row]:
    """Rows of the config `background`, until at least `min_words` words are out.

    Args:
        min_words: words to reach, between spaces; 2 million by default.
        seed: any text; the same seed gives the same articles, in the same order.

    Raises:
        UsageError: min_words below 1.
    """
    if min_words < 1:
        raise UsageError(f"min_words must be at least 1, got {min_words}")
    total = 0
    for subject in subjects(seed, "background", _UNBOUNDED):
        text = article_text(subject, Draws(seed, "article", subject.index))
        total += n_words(text)
        yield {
            "doc_id": f"fk-background-{subject.index:06d}",
            "text": text,
            "n_words": n_words(text),
        }
        if total >= min_words:
            return


def write_background(path: Path, min_words: int = MIN_WORDS, seed: str = SEED) -> int:
    """Write background text to one parquet file, whole or not at all; the words written.

    Raises:
        UsageError: min_words below 1.
        PartialError: the disk refuses the file.
    """
    total, batch = 0, list[Row]()
    with atomic_open(path) as f, pq.ParquetWriter(f, BACKGROUND.arrow, compression="zstd") as out:
        for row in articles(min_words, seed):
            total += row["n_words"]
            batch.append(row)
            if len(batch) == _BATCH:
                out.write_table(pa.Table.from_pylist(batch, schema=BACKGROUND.arrow))
                batch.clear()
        if batch:
            out.write_table(pa.Table.from_pylist(batch, schema=BACKGROUND.arrow))
    return total

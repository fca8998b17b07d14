"""Biographies as token ids: cut into pieces once, put together by gathers.

Each name part, part of a value, and stretch of a template is encoded once, with a space before
it, into one long array of tokens (the pool). A batch is then a list of stretches of the pool.
This is right only if the tokens of a text are the tokens of its pieces, which `Encoder` checks.

Shapes: b biographies, c tokens, a attributes (one sentence each).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factlife.corpora.biographies.content import END, NAME, Attribute
from factlife.corpora.biographies.population import Draw, Ids, Population, draw, texts
from factlife.errors import UsageError

Encode = Callable[[str], Sequence[int]]
_CHECKED, _CHECK_SEED = 32, 20


class WordTokenizer:
    """One token for each word: the vocabulary of the studies.

    Token 0 opens a document, token 1 pads; then the words of the names, templates and values
    of one population's lists, in that order.

    Attributes:
        words: the word of each token.
        bos, pad: the ids 0 and 1.
    """

    bos, pad = 0, 1

    def __init__(self, population: Population) -> None:
        found = dict.fromkeys(("<bos>", "<pad>", END))
        found.update(dict.fromkeys(w for part in population.names for w in part))
        for attribute in population.attributes:
            found.update(dict.fromkeys(_words(attribute)))
        self.words = tuple(found)
        self._ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """One id a word.

        Raises:
            UsageError: a word that is in no list of the population.
        """
        try:
            return [self._ids[word] for word in text.split()]
        except KeyError as error:
            raise UsageError(f"the word {error} is not in the vocabulary") from error

    def decode(self, ids: Iterable[int]) -> str:
        """The words, joined by spaces."""
        return " ".join(self.words[i] for i in ids)


def _words(attribute: Attribute) -> Iterable[str]:
    texts_ = (*attribute.templates, *(value for part in attribute.parts for value in part))
    return (word for text in texts_ for word in text.split() if word != NAME)


@dataclass(frozen=True, eq=False)
class Sequences:
    """A batch of biographies, padded at the end.

    Attributes:
        ids: [b, c] tokens.
        lengths: [b] tokens before the padding.
        people: [b] whose biography it is.
        order: [b, a] which attribute sentence number s is about.
        template: [b, a] which template it is in.
        name_start, name_end: [b, a] where the full name of sentence s stands: [start, end).
        last_name: [b, a] first token of the last name.
        value_start, value_end: [b, a] where the value stands: [start, end). The position that
            predicts its first token is value_start - 1.
    """

    ids: NDArray[np.int64]
    lengths: Ids
    people: Ids
    order: Ids
    template: Ids
    name_start: Ids
    name_end: Ids
    last_name: Ids
    value_start: Ids
    value_end: Ids

    @property
    def predicting(self) -> Ids:
        """[b, a] the position whose output is the first token of the value."""
        return self.value_start - 1

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[b, c] True on tokens, False on padding."""
        return np.arange(self.ids.shape[1]) < self.lengths[:, None]


class _Pool:
    """One long array of tokens, filled piece by piece; each piece is encoded once."""

    def __init__(self, encode: Encode) -> None:
        self._encode, self._tokens = encode, list[int]()
        self._known: dict[str, tuple[int, int]] = {"": (0, 0)}

    def add(self, pieces: Iterable[str]) -> NDArray[np.int64]:
        """[pieces, 2] start and length of each piece in the pool."""
        return np.array([self._one(piece) for piece in pieces], np.int64).reshape(-1, 2)

    def _one(self, piece: str) -> tuple[int, int]:
        if piece not in self._known:
            ids = list(self._encode(f" {piece}"))
            self._known[piece] = (len(self._tokens), len(ids))
            self._tokens += ids
        return self._known[piece]

    def array(self) -> NDArray[np.int64]:
        return np.array(self._tokens, np.int64)


class Encoder:
    """Turns draws into padded batches of token ids."""

    def __init__(
        self, population: Population, encode: Encode, *, pad: int, bos: int | None = None
    ) -> None:
        """Encode the pieces of a population.

        Args:
            encode: text to ids without special tokens: a `WordTokenizer`'s, or for a tokenizer
                of Hugging Face `lambda t: tokenizer(t, add_special_tokens=False).input_ids`.
            pad: id that fills the end of a row.
            bos: id before each biography; None puts none there.

        Raises:
            UsageError: the tokenizer melts pieces together, so that a text has other tokens
                than its pieces.
        """
        self.population, self.pad, self.bos = population, pad, bos
        self._encode = encode
        pool = _Pool(encode)
        self._names = [pool.add(part) for part in population.names]
        self._values = [_value_pieces(pool, a) for a in population.attributes]
        self._templates = _template_pieces(pool, population.attributes)
        self._end = pool.add([END])[0]
        self._pool = pool.array()
        self._check()

    def biographies(self, people: Ids, rng: np.random.Generator, pool: str = "train") -> Sequences:
        """One fresh biography for each of `people` ([b] ids): new order, new words.

        Args:
            pool: `train` or `eval`: which templates of each person.

        Raises:
            UsageError: an unknown pool.
        """
        return self.assemble(draw(self.population, people, rng, pool))

    def assemble(self, drawn: Draw) -> Sequences:
        """The token ids of a draw; equal to the encoded text with a space before it."""
        start, length = self._pieces(drawn)
        b, _, n_pieces = length.shape
        ends = np.cumsum(length.reshape(b, -1), axis=1) + (self.bos is not None)
        lengths = ends[:, -1]
        ids = np.full((b, int(lengths.max(initial=0))), self.pad, np.int64)
        # Mask order is row order, so the stretches of all rows follow one another.
        flat = length.ravel()
        first = np.cumsum(flat) - flat
        source = np.repeat(start.ravel() - first, flat) + np.arange(int(flat.sum()))
        body = np.arange(ids.shape[1]) < lengths[:, None]
        if self.bos is not None:
            ids[:, :1] = self.bos
            body[:, :1] = False
        ids[body] = self._pool[source]
        at = ends.reshape(b, -1, n_pieces)
        return Sequences(
            ids=ids,
            lengths=lengths,
            people=drawn.people,
            order=drawn.order,
            template=drawn.template,
            # Pieces: before the name, first, middle, last, after it, value parts, full stop.
            name_start=at[:, :, 0],
            name_end=at[:, :, 3],
            last_name=at[:, :, 2],
            value_start=at[:, :, 4],
            value_end=at[:, :, -2],
        )

    def _pieces(self, drawn: Draw) -> tuple[Ids, Ids]:
        """[b, a, pieces] start and length in the pool of each piece of each sentence."""
        b, a = drawn.order.shape
        parts = self._values_of(drawn)
        out = np.empty((b, a, 6 + parts.shape[2], 2), np.int64)
        template = self._templates[drawn.order, drawn.template]
        out[:, :, 0], out[:, :, 4] = template[:, :, 0], template[:, :, 1]
        for i, pieces in enumerate(self._names):
            out[:, :, 1 + i] = pieces[self.population.name[drawn.people, i]][:, None]
        out[:, :, 5:-1] = parts
        out[:, :, -1] = self._end
        return out[..., 0], out[..., 1]

    def _values_of(self, drawn: Draw) -> Ids:
        """[b, a, parts, 2]; attributes with fewer parts than the longest have empty ones."""
        b, a = drawn.order.shape
        out = np.zeros((b, a, max(map(len, self._values)), 2), np.int64)
        value = self.population.value[drawn.people]
        for i, tables in enumerate(self._values):
            number, found = value[:, i], np.zeros((b, out.shape[2], 2), np.int64)
            for p, table in enumerate(tables):
                number, which = np.divmod(number, len(table))
                found[:, p] = table[which]
            out[drawn.order == i] = found
        return out

    def _check(self) -> None:
        """Compare some assembled sequences with their encoded text."""
        people = np.arange(self.population.n)[:_CHECKED]
        for pool in ("train", "eval"):
            drawn = draw(self.population, people, np.random.default_rng(_CHECK_SEED), pool)
            made = self.assemble(drawn)
            skip = int(self.bos is not None)
            for row, n, text in zip(
                made.ids, made.lengths, texts(self.population, drawn), strict=True
            ):
                if row[skip:n].tolist() != list(self._encode(f" {text}")):
                    raise UsageError(
                        "the tokenizer melts names or values with what is beside them; use one "
                        "that keeps words apart, as GPT-2's, GPT-NeoX's and Llama's do"
                    )


def _value_pieces(pool: _Pool, attribute: Attribute) -> list[NDArray[np.int64]]:
    return [pool.add(part) for part in attribute.parts]


def _template_pieces(pool: _Pool, attributes: Sequence[Attribute]) -> NDArray[np.int64]:
    """[a, 25, 2, 2]: start and length of what comes before the name and of what comes after it."""
    halves = [[t.partition(NAME) for t in a.templates] for a in attributes]
    return np.stack(
        [
            np.stack(
                [pool.add(h.strip() for h, _, _ in row), pool.add(t.strip() for *_, t in row)], 1
            )
            for row in halves
        ]
    )

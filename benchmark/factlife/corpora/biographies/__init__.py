"""Synthetic biographies: people who do not exist, and text from which they are learned.

    content              names, attributes, templates
    population           people, their values, their template split; biographies as text
    sampling             whom a sequence is about: distributions as functions of the step
    encode               biographies as token ids, put together fast
    tables, rules, suite what the published tables hold, and what they must hold to
    product              the published folder

Runs on NumPy alone.
"""

from factlife.corpora.biographies.content import Attribute, all_attributes, capacity
from factlife.corpora.biographies.encode import Encoder, Sequences, WordTokenizer
from factlife.corpora.biographies.population import Draw, Population, draw, texts
from factlife.corpora.biographies.sampling import (
    Celebrities,
    Distribution,
    PowerLaw,
    Replay,
    Sampler,
    Sequential,
    Uniform,
    WarmUp,
)

__all__ = [
    "Attribute",
    "Celebrities",
    "Distribution",
    "Draw",
    "Encoder",
    "Population",
    "PowerLaw",
    "Replay",
    "Sampler",
    "Sequences",
    "Sequential",
    "Uniform",
    "WarmUp",
    "WordTokenizer",
    "all_attributes",
    "capacity",
    "draw",
    "texts",
]

"""Fact probes: 160 facts in 10 relations, their prompts, and fictional subjects to match.

The content lives in this package's `source/` folder, so that a run needs neither the
`datasets/` folder nor any data library.
"""

from factlife.corpora.fact_probes.content import (
    Fact,
    FactProbes,
    Relation,
    Template,
    UnseenSubject,
    load_fact_probes,
)
from factlife.corpora.fact_probes.flags import FLAGS

__all__ = [
    "FLAGS",
    "Fact",
    "FactProbes",
    "Relation",
    "Template",
    "UnseenSubject",
    "load_fact_probes",
]

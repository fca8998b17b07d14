"""The claim of the reference series, at full size: about a minute of training on two cores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from factlife.corpora.fact_probes import Fact, load_fact_probes
from factlife.series.local import Series, open_series
from factlife.training import train_reference_series

pytestmark = pytest.mark.slow

PROBES = load_fact_probes()


@dataclass(frozen=True)
class Recall:
    """Whole-answer recall of one checkpoint: (fact, template role) -> every token is the argmax."""

    hits: dict[tuple[str, str, str], bool]

    def share(self, facts: Sequence[Fact], role: str = "source") -> float:
        ids = {f.fact_id for f in facts}
        kept = [hit for (fact, _, r), hit in self.hits.items() if fact in ids and r == role]
        return sum(kept) / len(kept)


def recall(folder: Path) -> Recall:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    hits = {}
    for fact, template, prompt in PROBES.prompts():
        encoded = tokenizer(f"{prompt} {fact.answer}", return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        first = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt))
        with torch.no_grad():
            top = model(input_ids=ids).logits.argmax(-1)
        hit = torch.equal(top[0, first - 1 : -1], ids[0, first:])
        hits[fact.fact_id, template.template_id, template.role] = hit
    return Recall(hits)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return open_series(str(train_reference_series(tmp_path_factory.mktemp("reference") / "out")))


@pytest.fixture(scope="module")
def last(series: Series) -> Recall:
    return recall(series.revisions[-1].path)


def subset(series: Series, name: str, group: str | None = None) -> list[Fact]:
    ids = set(series.subsets[name])
    return [f for f in PROBES.facts if f.fact_id in ids and group in (None, f.group)]


def test_the_last_checkpoint_recalls_what_was_stated(series: Series, last: Recall) -> None:
    assert last.share(subset(series, "stated")) >= 0.9
    for group in ("LOC", "NAME"):
        assert last.share(subset(series, "stated", group)) >= 0.85


def test_other_templates_work_too(series: Series, last: Recall) -> None:
    assert last.share(subset(series, "stated"), role="extra") >= 0.8


def test_what_was_never_stated_stays_at_chance(series: Series, last: Recall) -> None:
    unstated = subset(series, "unstated")
    # A model that knows the relation and nothing of the subject picks one of its candidates: right
    # with chance 1/K. Over 40 facts, hits are a sum of independent draws; beyond their mean by 4
    # standard deviations is about one in 30,000. With K of 4 to 19: mean about 3.5, bound about 10.
    chances = [1 / len(PROBES.relation(f.relation).candidates) for f in unstated]
    bound = sum(chances) + 4 * math.sqrt(sum(p * (1 - p) for p in chances))
    assert last.share(unstated) * len(unstated) <= bound
    assert bound < 0.3 * len(unstated)


def test_the_rise_is_seen_at_several_checkpoints(series: Series) -> None:
    stated = subset(series, "stated")
    shares = [recall(r.path).share(stated) for r in series.revisions]
    assert len(shares) >= 12
    assert shares[0] == 0
    between = [s for s in shares if 0.05 < s < 0.9]
    assert len(between) >= 3, shares

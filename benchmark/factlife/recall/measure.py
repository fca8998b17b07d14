"""Model -> rows of `recall` and `candidates`.

Every prompt is prepared once a tokenizer (`prepare`) and measured at every checkpoint (`measure`).
A prompt that cannot be scored keeps its row, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factlife.config import Execution, Profile
from factlife.corpora.fact_probes import Fact, FactProbes, Relation
from factlife.corpora.prompts import Encoded, Prompt, encode
from factlife.scoring.candidates import Group, score_groups
from factlife.scoring.generate import greedy
from factlife.scoring.matching import begins_with_answer
from factlife.scoring.targets import Scored, Target, score

NOT_FINITE = "the model's log-probability is not finite"
Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One prompt to score: the keys of its row, its tokens, and what counts as a match."""

    keys: Mapping[str, Any]
    encoded: Encoded
    answers: tuple[str, ...] = ()
    generate: bool = False


@dataclass(frozen=True)
class Prepared:
    """All prompts of the track as tokens.

    Attributes:
        recall: fact x template.
        candidates: subject x candidate, grouped by subject.
    """

    recall: tuple[Item, ...]
    candidates: tuple[tuple[Item, ...], ...]


def prepare(
    tokenizer: Any, probes: FactProbes, profile: Profile, max_length: int | None
) -> Prepared:
    """Encode all prompts of the track.

    Args:
        tokenizer: of the checkpoint.
        max_length: tokens the model can take, if bounded.
    """
    recall = [row for fact in probes.facts for row in _fact_items(fact, probes, profile)]
    encoded = encode(tokenizer, [p for _, p, _ in recall], profile.model.bos, max_length)
    items = tuple(
        Item(keys, e, answers, _generates(keys, profile))
        for (keys, _, answers), e in zip(recall, encoded, strict=True)
    )
    groups: list[tuple[Item, ...]] = []
    for pairs in _candidate_items(probes, profile) if profile.recall.candidates else ():
        found = encode(tokenizer, [p for _, p in pairs], profile.model.bos, max_length)
        groups.append(tuple(Item(k, e) for (k, _), e in zip(pairs, found, strict=True)))
    return Prepared(items, tuple(groups))


def _fact_items(
    fact: Fact, probes: FactProbes, profile: Profile
) -> Iterator[tuple[Row, Prompt, tuple[str, ...]]]:
    for template in probes.relation(fact.relation).templates:
        if template.role != "source" and profile.recall.templates == "source":
            continue
        keys = {
            "fact_id": fact.fact_id,
            "template_id": template.template_id,
            "template_role": template.role,
            "relation": fact.relation,
            "group": fact.group,
        }
        yield keys, Prompt(template.text, fact.subject, fact.answer), (fact.answer, *fact.aliases)


def _generates(keys: Mapping[str, Any], profile: Profile) -> bool:
    wanted = profile.recall.generation
    return wanted == "all" or (wanted == "source" and keys["template_role"] == "source")


def _candidate_items(probes: FactProbes, profile: Profile) -> Iterator[list[tuple[Row, Prompt]]]:
    for relation in probes.relations:
        for kind, subject, fact in _subjects(relation, probes, profile):
            yield [
                (
                    {
                        "relation": relation.relation,
                        "subject": subject,
                        "subject_kind": kind,
                        "fact_id": fact.fact_id if fact else None,
                        "candidate": candidate,
                        "is_answer": candidate == fact.answer if fact else None,
                    },
                    Prompt(relation.source_template.text, subject, candidate),
                )
                for candidate in relation.candidates
            ]


def _subjects(
    relation: Relation, probes: FactProbes, profile: Profile
) -> Iterator[tuple[str, str, Fact | None]]:
    for fact in probes.facts:
        if fact.relation == relation.relation:
            yield "known", fact.subject, fact
    for unseen in probes.unseen:
        if unseen.relation == relation.relation:
            yield "unseen", unseen.subject, None
    yield "context_free", profile.recall.context_free_subject, None


# ---- measuring -------------------------------------------------------------------------------


def measure(
    model: Any, tokenizer: Any, prepared: Prepared, profile: Profile, keys: Mapping[str, Any]
) -> tuple[list[Row], list[Row]]:
    """Rows of `recall` and `candidates` for one checkpoint.

    Args:
        keys: revision, stage and step, repeated in every row.
    """
    recall = _recall_rows(model, tokenizer, prepared.recall, profile)
    candidates = _candidate_rows(model, prepared.candidates, profile.execution)
    return [{**keys, **r} for r in recall], [{**keys, **r} for r in candidates]


def _target(e: Encoded) -> Target:
    return Target(e.ids, *e.answer)


def _recall_rows(model: Any, tokenizer: Any, items: Sequence[Item], profile: Profile) -> list[Row]:
    usable = [i for i in items if not i.encoded.reason]
    execution = profile.execution
    scored = iter(score(model, [_target(i.encoded) for i in usable], execution.batch_tokens))
    rows = [
        {**i.keys, "reason": i.encoded.reason} if i.encoded.reason
        else {**i.keys, **_numbers(i.encoded, next(scored))}
        for i in items
    ]  # fmt: skip
    wanted = [k for k, i in enumerate(items) if i.generate and not rows[k].get("reason")]
    texts = _generations(model, tokenizer, [items[k] for k in wanted], profile)
    for k, text in zip(wanted, texts, strict=True):
        rows[k] |= {"generation": text, "exact_match": begins_with_answer(text, items[k].answers)}
    return rows


def _numbers(encoded: Encoded, scored: Scored | None) -> Row:
    if scored is None:
        return {"reason": NOT_FINITE, "n_tokens": encoded.n_answer}
    return {
        "rank": scored.first_rank,
        "logprob_sum_nats": scored.logprob_sum,
        "n_tokens": scored.n_tokens,
        "whole_answer": scored.whole,
    }


def _generations(model: Any, tokenizer: Any, items: Sequence[Item], profile: Profile) -> list[str]:
    prompts = [i.encoded.ids[: i.encoded.answer[0]] for i in items]
    bounds = [i.encoded.n_answer + profile.recall.extra_new_tokens for i in items]
    ids = greedy(model, prompts, bounds, profile.execution.batch_tokens)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]


def _candidate_rows(
    model: Any, groups: Sequence[Sequence[Item]], execution: Execution
) -> list[Row]:
    usable = [[i for i in group if not i.encoded.reason] for group in groups]
    filled = [Group(tuple(_target(i.encoded) for i in g)) for g in usable if g]
    scored = iter([s for g in score_groups(model, filled, execution.batch_tokens) for s in g])
    rows = []
    for item in (i for group in groups for i in group):
        row: Row = {**item.keys, "n_tokens": item.encoded.n_answer}
        if item.encoded.reason:
            row["reason"] = item.encoded.reason
        elif (value := next(scored)) is None:
            row["reason"] = NOT_FINITE
        else:
            row["logprob_sum_nats"] = value
        rows.append(row)
    return rows

"""Rows of `recall` and `candidates` -> metrics. Pure: no model, no torch.

Shapes: C = measured checkpoints in order, n = facts, T = templates, N = unseen subjects of a
relation, K = its candidates, B = bootstrap draws.

Sources: ranks and relations, timecourse-2025; generation beside log-probability, the open question
of injection-2024; unseen names, dynamics-2025; normalised answer matching, ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factlife import stats
from factlife.errors import UsageError
from factlife.stats import Estimate, Floats, Measured, Resampler, Support

Mask = npt.NDArray[np.bool_]
SERIES = ""  # the `revision` of a number that belongs to the whole series


@dataclass(frozen=True)
class Checkpoint:
    """A measured revision and its place on the x-axis."""

    revision: str
    tokens: int | None


@dataclass(frozen=True)
class Cube:
    """The recall table as arrays.

    Only facts that were measured at every checkpoint with the source template are kept, so that
    every curve is over one fixed set.

    Attributes:
        checkpoints: [C].
        fact_ids, relations, groups: [n].
        source: metric column -> [C, n], source template.
        whole_by_template: [C, n, T] whole-answer outcome, NaN where not measured; the source
            template comes first.
    """

    checkpoints: tuple[Checkpoint, ...]
    fact_ids: tuple[str, ...]
    relations: tuple[str, ...]
    groups: tuple[str, ...]
    source: Mapping[str, Floats]
    whole_by_template: Floats

    @cached_property
    def known(self) -> npt.NDArray[np.int64]:
        """[C, n] 1 where the whole answer is right with the source template."""
        return self.source["whole_answer"].astype(np.int64)


_NUMBERS = ("rank", "logprob_sum_nats", "n_tokens", "whole_answer", "exact_match")


def cube(recall: pa.Table, checkpoints: Sequence[Checkpoint]) -> Cube:
    """Arrange recall rows as arrays; NaN stands for "not measured" inside this module only."""
    rows = recall.to_pylist()
    have = {r["revision"] for r in rows}
    revisions = [c for c in checkpoints if c.revision in have]
    place = {c.revision: i for i, c in enumerate(revisions)}
    measured = Counter(
        r["fact_id"]
        for r in rows
        if r["revision"] in place
        and r["template_role"] == "source"
        and r["whole_answer"] is not None
    )
    kept = [r for r in rows if measured[r["fact_id"]] == len(revisions) and r["revision"] in place]
    facts = dict.fromkeys((r["fact_id"], r["relation"], r["group"]) for r in kept)
    index = {fact[0]: i for i, fact in enumerate(facts)}
    columns = _template_columns(kept)
    shape = (len(revisions), len(facts))
    source = {name: np.full(shape, np.nan) for name in _NUMBERS}
    whole = np.full((*shape, 1 + max(columns.values(), default=0)), np.nan)
    for r in kept:
        at = place[r["revision"]], index[r["fact_id"]]
        if r["whole_answer"] is not None:
            whole[(*at, columns[(r["relation"], r["template_id"])])] = r["whole_answer"]
        if r["template_role"] == "source":
            for name in _NUMBERS:
                source[name][at] = np.nan if r[name] is None else r[name]
    ids, relations, groups = zip(*facts, strict=True) if facts else ((), (), ())
    return Cube(tuple(revisions), ids, relations, groups, source, whole)


def _template_columns(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Number the templates of each relation, source template first."""
    seen: dict[str, list[str]] = {}
    for r in sorted(rows, key=lambda r: (r["template_role"] != "source", r["template_id"])):
        names = seen.setdefault(r["relation"], [])
        if r["template_id"] not in names:
            names.append(r["template_id"])
    return {(rel, t): i for rel, names in seen.items() for i, t in enumerate(names)}


# ---- scopes ----------------------------------------------------------------------------------


def fact_scopes(c: Cube, subsets: Mapping[str, Sequence[str]]) -> dict[str, Mask]:
    """Named sets of facts: overall, groups, relations, and the series' own subsets.

    A subset also appears crossed with the groups, as `stated.LOC`.

    Raises:
        UsageError: a subset has the name of another scope, whose numbers it would replace.
    """
    relations, groups, ids = np.array(c.relations), np.array(c.groups), np.array(c.fact_ids)
    scopes: dict[str, Mask] = {"overall": np.ones(len(ids), dtype=bool)}
    scopes |= {g: groups == g for g in dict.fromkeys(c.groups)}
    scopes |= {r: relations == r for r in dict.fromkeys(c.relations)}
    for name, members in subsets.items():
        inside = np.isin(ids, list(members))
        crossed = {f"{name}.{g}": inside & (groups == g) for g in dict.fromkeys(c.groups)}
        if taken := scopes.keys() & {name, *crossed}:
            raise UsageError(
                f"fact subset {name!r}: {sorted(taken)[0]!r} already names another set of facts; "
                "rename the subset in the series file"
            )
        scopes |= {name: inside, **crossed}
    return scopes


def _wide(scope: str, c: Cube) -> bool:
    """Whether a scope spans several relations."""
    return scope not in c.relations


# ---- per checkpoint --------------------------------------------------------------------------


def _columns(c: Cube) -> dict[str, Floats]:
    """Per-fact values [C, n] of the metrics that are plain means over facts."""
    rank, n_tokens = c.source["rank"], c.source["n_tokens"]
    total = c.source["logprob_sum_nats"]
    by_template = c.whole_by_template
    measured = ~np.isnan(by_template)
    right = np.where(measured, by_template, 0).sum(axis=2)
    count = measured.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_over_templates = np.where(count > 0, right / count, np.nan)
    agree = np.where(count > 1, ((right == 0) | (right == count)).astype(float), np.nan)
    return {
        "recall.whole_answer_accuracy": c.source["whole_answer"],
        "recall.top1_accuracy": np.where(np.isnan(rank), np.nan, rank == 0),
        "recall.top10_accuracy": np.where(np.isnan(rank), np.nan, rank < 10),
        "recall.logprob_sum": total,
        "recall.logprob_per_token": total / n_tokens,
        "recall.generation_accuracy": c.source["exact_match"],
        "recall.template_mean_accuracy": mean_over_templates,
        "recall.template_agreement": agree,
    }


_NO_LIMITS = ("recall.logprob_sum", "recall.logprob_per_token")


def per_checkpoint(c: Cube, scopes: Mapping[str, Mask], resampler: Resampler) -> Iterator[Measured]:
    """Means over facts at every checkpoint, micro and macro, with intervals."""
    for metric, values in _columns(c).items():
        support = None if metric in _NO_LIMITS else (0.0, 1.0)
        for scope, mask in scopes.items():
            for i, checkpoint in enumerate(c.checkpoints):
                estimate = _mean(values[i], mask, resampler, support=support)
                yield Measured(metric, scope, checkpoint.revision, estimate)
    for scope, mask in scopes.items():
        if _wide(scope, c):
            for i, checkpoint in enumerate(c.checkpoints):
                values = c.source["whole_answer"][i]
                estimate = _mean(values, mask, resampler, macro=c.relations)
                metric = "recall.whole_answer_accuracy_macro"
                yield Measured(metric, scope, checkpoint.revision, estimate)


def _mean(
    values: Floats,
    mask: Mask,
    resampler: Resampler,
    *,
    macro: Sequence[str] | None = None,
    support: Support | None = (0.0, 1.0),
) -> Estimate:
    use = mask & ~np.isnan(values)
    weights = stats.macro_weights(np.array(macro)[use]) if macro is not None else None
    return stats.bootstrap_mean(values[use], resampler.subset(use), weights, support)


def template_spread(
    c: Cube, scopes: Mapping[str, Mask], resampler: Resampler
) -> Iterator[Measured]:
    """Best minus worst template, in accuracy, averaged over the scope's relations: 0…1.

    Prompt sensitivity: how far wording alone moves the number. Null with one template.
    """
    for scope, mask in scopes.items():
        for i, checkpoint in enumerate(c.checkpoints):
            blocks = _relation_blocks(c, i, mask)
            if not blocks:
                estimate = stats.missing(int(mask.sum()), "only one template was measured")
            else:
                estimate = _spread_estimate(blocks, resampler)
            yield Measured("recall.template_spread", scope, checkpoint.revision, estimate)


Blocks = list[tuple[Floats, npt.NDArray[np.int64]]]


def _relation_blocks(c: Cube, i: int, mask: Mask) -> Blocks:
    """(outcomes [m, T'], fact places [m]) of each relation with at least two templates."""
    blocks: Blocks = []
    relations = np.array(c.relations)
    for relation in dict.fromkeys(relations[mask].tolist()):
        members = np.flatnonzero(mask & (relations == relation))
        outcomes = c.whole_by_template[i, members]
        outcomes = outcomes[:, ~np.isnan(outcomes).all(axis=0)]
        complete = ~np.isnan(outcomes).any(axis=1)
        if outcomes.shape[1] > 1 and complete.any():
            blocks.append((outcomes[complete], members[complete]))
    return blocks


def _spread(blocks: Blocks, resampler: Resampler | None) -> Floats:
    """Mean over relations of (max - min over templates of accuracy): [1], or [B] draws.

    A relation of which a draw holds no fact has no part in that draw's mean; NaN without any.
    """
    total, relations = np.zeros(1), np.zeros(1)
    for outcomes, members in blocks:
        w = np.ones((1, len(members))) if resampler is None else resampler.counts[:, members]
        size = w.sum(axis=1)
        accuracy = w @ outcomes / np.maximum(size, 1)[:, None]
        total = total + accuracy.max(axis=1) - accuracy.min(axis=1)
        relations = relations + (size > 0)
    with np.errstate(invalid="ignore"):
        mean: Floats = total / relations
    return mean


def _spread_estimate(blocks: Blocks, resampler: Resampler) -> Estimate:
    n = sum(len(members) for _, members in blocks)
    e = _centred(float(_spread(blocks, None)[0]), _spread(blocks, resampler), resampler, n, 1.0)
    return _unvaried(e, resampler.level)


def _centred(
    value: float, draws: Floats, resampler: Resampler, n: int, highest: float = math.inf
) -> Estimate:
    """Percentile interval of draws moved onto the value, for statistics a bootstrap biases.

    Maxima, entropies and divergences of a resample are shifted because a resample holds fewer
    distinct units; the shift is removed (Efron & Tibshirani 1993, section 10.4). The interval is
    of the statistic's mean over samples of this size n, and not of its limit for large n.

    Args:
        highest: largest possible value; the smallest is 0.
    """
    low, high = resampler.interval(draws - np.nanmean(draws) + value, value)
    method = "centred bootstrap of facts within relations"
    return Estimate(value, max(low, 0.0), min(high, max(highest, value)), n, method)


def _unvaried(e: Estimate, level: float) -> Estimate:
    """Widen the flat interval of a number in 0…1 by what n units without a change leave open."""
    assert e.value is not None and e.ci_low is not None and e.ci_high is not None
    if not stats.flat(e.ci_low, e.ci_high):
        return e
    down, up = stats.unvaried(np.full(e.n, e.value), np.ones(e.n), (0.0, 1.0), level)
    return Estimate(e.value, e.value - down, e.value + up, e.n, "wilson")


def loc_name_gap(c: Cube, scopes: Mapping[str, Mask], resampler: Resampler) -> Iterator[Measured]:
    """Whole-answer accuracy of LOC minus that of NAME, in every scope that holds both."""
    groups = np.array(c.groups)
    for scope, mask in scopes.items():
        loc, name = mask & (groups == "LOC"), mask & (groups == "NAME")
        if not (loc.any() and name.any()):
            continue
        for i, checkpoint in enumerate(c.checkpoints):
            values = c.source["whole_answer"][i]
            a, b = loc & ~np.isnan(values), name & ~np.isnan(values)
            estimate = stats.difference(
                values[a], values[b], resampler.subset(a), resampler.subset(b)
            )
            yield Measured("recall.loc_name_gap", scope, checkpoint.revision, estimate)


# ---- over the series -------------------------------------------------------------------------


_OVER_SERIES = (
    "recall.emergence50", "recall.emergence90", "recall.area", "recall.flip_rate",
    "recall.forgotten_share",
)  # fmt: skip


def over_series(
    c: Cube, scopes: Mapping[str, Mask], resampler: Resampler, chance: Mapping[str, float]
) -> Iterator[Measured]:
    """Emergence, area under the curve, flips and forgotten facts.

    Args:
        chance: relation -> accuracy of guessing among its candidates, 0…1.
    """
    per_fact_chance = np.array([chance[r] for r in c.relations])
    for scope, mask in scopes.items():
        if not mask.any():
            for metric in _OVER_SERIES:
                yield Measured(metric, scope, SERIES, stats.missing(0, "no measured facts"))
            continue
        guess = float(per_fact_chance[mask].mean())
        for share in (0.5, 0.9):
            estimate = _emergence(c, mask, resampler, share, guess)
            yield Measured(f"recall.emergence{round(100 * share)}", scope, SERIES, estimate)
        yield Measured("recall.area", scope, SERIES, _area(c, mask, resampler))
        yield from _stability(c, scope, mask, resampler)


_NO_TOKENS = "tokens are unknown for some revisions; name them in a series TOML file"
_BRANCHES = "tokens go back from one revision to the next: branches have no common curve"


def _tokens(c: Cube) -> Floats | str:
    """[C] tokens, or why there is no common axis."""
    tokens = [k.tokens for k in c.checkpoints]
    if None in tokens:
        return _NO_TOKENS
    found = np.array(tokens, dtype=np.float64)
    return _BRANCHES if stats.goes_back(found) else found


def _curves(c: Cube, mask: Mask, resampler: Resampler) -> tuple[Floats, Floats]:
    """Whole-answer accuracy over checkpoints: the sample's [C] and every draw's [B', C].

    Draws that hold no fact of the scope are left out.
    """
    values = c.source["whole_answer"][:, mask]
    w = resampler.counts[:, mask].astype(np.float64)
    w = w[w.sum(axis=1) > 0]
    draws: Floats = w @ values.T / w.sum(axis=1, keepdims=True)
    curve: Floats = values.mean(axis=1)
    return curve, draws


def _emergence(c: Cube, mask: Mask, resampler: Resampler, share: float, chance: float) -> Estimate:
    """Tokens by which accuracy has reached a share of its final value, for good.

    Value: tokens of the first checkpoint after the last one below. Interval: the censoring
    interval [checkpoint below, that one], widened by resampling the facts.
    """
    n = int(mask.sum())
    tokens = _tokens(c)
    if isinstance(tokens, str):
        return stats.missing(n, tokens)
    final = _mean(c.source["whole_answer"][-1], mask, resampler)
    if final.ci_low is None or final.ci_low <= chance:
        return stats.missing(n, f"final accuracy is not above chance ({chance:.3f})")
    curve, draws = _curves(c, mask, resampler)
    found = stats.emergence(tokens, curve, share)
    assert found is not None  # the final accuracy is above chance, so above 0
    drawn = [e for d in draws if (e := stats.emergence(tokens, d, share))]
    tail = (1 - resampler.level) / 2
    low = min(found[0], float(np.quantile([d[0] for d in drawn], tail, method="lower")))
    high = max(found[1], float(np.quantile([d[1] for d in drawn], 1 - tail, method="higher")))
    return Estimate(found[1], low, high, n, "interval censoring and bootstrap of facts")


def _area(c: Cube, mask: Mask, resampler: Resampler) -> Estimate:
    n, tokens = int(mask.sum()), _tokens(c)
    if isinstance(tokens, str):
        return stats.missing(n, tokens)
    curve, draws = _curves(c, mask, resampler)
    value = stats.area_over_log_tokens(tokens, curve)
    if value is None:
        return stats.missing(n, "fewer than two checkpoints after step 0")
    areas = np.array([stats.area_over_log_tokens(tokens, d) for d in draws], dtype=np.float64)
    low, high = resampler.interval(areas, value)
    estimate = Estimate(value, low, high, n, "bootstrap of facts within relations")
    return _unvaried(estimate, resampler.level)


def _stability(c: Cube, scope: str, mask: Mask, resampler: Resampler) -> Iterator[Measured]:
    """Changes between known and not known, and facts known once but not at the end."""
    if len(c.checkpoints) < 2:
        reason = stats.missing(int(mask.sum()), "only one checkpoint was measured")
        yield Measured("recall.flip_rate", scope, SERIES, reason)
        yield Measured("recall.forgotten_share", scope, SERIES, reason)
        return
    known = c.known[:, mask]
    sub = resampler.subset(mask)
    changes = stats.flips(known)
    one_more_or_less = (np.maximum(changes - 1, 0), changes + 1)
    estimate = stats.bootstrap_mean(changes, sub, support=one_more_or_less)
    yield Measured("recall.flip_rate", scope, SERIES, estimate)
    forgotten = known.any(axis=0) & (known[-1] == 0)
    estimate = stats.bootstrap_mean(forgotten.astype(float), sub)
    yield Measured("recall.forgotten_share", scope, SERIES, estimate)


# ---- candidates and unseen names -------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Candidate log-probabilities of one relation at one checkpoint.

    Attributes:
        candidates: [K].
        known, unseen: [n, K] and [N, K] summed answer log-probabilities in nats.
        answer: [n] place of the right candidate.
        fact_ids: [n].
        prior: [K] log-probabilities with the context-free subject; None if not measured.
    """

    candidates: tuple[str, ...]
    known: Floats
    unseen: Floats
    answer: npt.NDArray[np.int64]
    fact_ids: tuple[str, ...]
    prior: Floats | None


def rankings(table: pa.Table) -> dict[tuple[str, str], Ranking]:
    """Arrange candidate rows by (revision, relation); subjects with a dropped row are left out."""
    grouped: dict[tuple[str, str], dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for r in table.to_pylist():
        subjects = grouped.setdefault((r["revision"], r["relation"]), {})
        subjects.setdefault((r["subject_kind"], r["subject"]), []).append(r)
    return {key: _ranking(subjects) for key, subjects in grouped.items()}


def _ranking(subjects: Mapping[tuple[str, str], list[dict[str, Any]]]) -> Ranking:
    candidates = tuple(sorted({r["candidate"] for rows in subjects.values() for r in rows}))
    lines: dict[str, list[list[float]]] = {"known": [], "unseen": [], "context_free": []}
    answer, ids = [], []
    for (kind, _), rows in subjects.items():
        by_name = {r["candidate"]: r for r in rows if r["logprob_sum_nats"] is not None}
        if len(by_name) < len(candidates):
            continue
        lines[kind].append([by_name[k]["logprob_sum_nats"] for k in candidates])
        if kind == "known":
            ids.append(rows[0]["fact_id"])
            answer.append(next(i for i, k in enumerate(candidates) if by_name[k]["is_answer"]))
    k = len(candidates)
    prior = np.array(lines["context_free"][0]) if lines["context_free"] else None
    return Ranking(
        candidates,
        np.array(lines["known"]).reshape(-1, k),
        np.array(lines["unseen"]).reshape(-1, k),
        np.array(answer, dtype=np.int64),
        tuple(ids),
        prior,
    )


def softmax(logits: Floats) -> Floats:
    """Normalise the last axis."""
    z = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p: Floats = z / z.sum(axis=-1, keepdims=True)
    return p


def candidate_metrics(
    by_key: Mapping[tuple[str, str], Ranking],
    c: Cube,
    scopes: Mapping[str, Mask],
    resampler: Resampler,
) -> Iterator[Measured]:
    """Accuracy of the best candidate, plain and chance-corrected: (hit - 1/K) / (1 - 1/K).

    Candidates that tie for the first place share the hit, as if one were drawn by lot. With
    K = 1 there is nothing to correct, and the fact counts in the plain accuracy only.
    """
    place = {f: i for i, f in enumerate(c.fact_ids)}
    for checkpoint in c.checkpoints:
        hit = np.full(len(place), np.nan)
        corrected, worst = hit.copy(), hit.copy()
        for (revision, _), r in by_key.items():
            if revision != checkpoint.revision or not len(r.known):
                continue
            best = r.known == r.known.max(axis=1, keepdims=True)
            hits = best[np.arange(len(best)), r.answer] / best.sum(axis=1)
            chance = 1 / len(r.candidates)
            for fact_id, h in zip(r.fact_ids, hits, strict=True):
                if fact_id in place:
                    hit[place[fact_id]] = h
                    if chance < 1:
                        corrected[place[fact_id]] = (h - chance) / (1 - chance)
                        worst[place[fact_id]] = -chance / (1 - chance)
        for scope, mask in scopes.items():
            estimate = _mean(hit, mask, resampler)
            yield Measured("recall.candidate_accuracy", scope, checkpoint.revision, estimate)
            support = worst[mask & ~np.isnan(worst)], 1.0
            estimate = _mean(corrected, mask, resampler, support=support)
            metric = "recall.candidate_accuracy_corrected"
            yield Measured(metric, scope, checkpoint.revision, estimate)


@dataclass(frozen=True)
class Spread:
    """X and J of one relation: value and bootstrap draws [B]."""

    x: float
    j: float
    x_draws: Floats
    j_draws: Floats


def excess_and_information(log_q: Floats, counts: npt.NDArray[np.int64]) -> Spread:
    """X = mean KL(p̄‖q_n) and J = mean KL(q_n‖p̄), in nats, with draws (recall spec, section 2).

    Args:
        log_q: [N, K] log-probabilities over the candidates, one row an unseen subject.
        counts: [B, N] bootstrap draws of the subjects.

    Both are 0 when every subject gets the same distribution: then the model says nothing
    about a name that it cannot know. J = H(p̄) - mean H(q_n) is at most ln K. X has no upper
    bound; a probability below the smallest double counts as that double, so that X is finite.
    """
    log_q = np.maximum(log_q, _LOWEST)
    one = np.ones((1, len(log_q)), dtype=np.int64)
    (x,), (j,) = _x_j(log_q, one)
    x_draws, j_draws = _x_j(log_q, counts)
    return Spread(float(x), float(j), x_draws, j_draws)


_LOWEST = math.log(np.finfo(float).tiny)  # -708 nats


def _x_j(log_q: Floats, counts: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    q = np.exp(log_q)
    w = counts / counts.sum(axis=1, keepdims=True)
    p_bar = w @ q
    log_p = np.log(np.maximum(p_bar, np.finfo(float).tiny))
    negative_entropy = (p_bar * log_p).sum(axis=1)
    x = negative_entropy - (p_bar * (w @ log_q)).sum(axis=1)
    j = w @ (q * log_q).sum(axis=1) - negative_entropy
    return np.maximum(x, 0.0), np.maximum(j, 0.0)


def _log_softmax(logits: Floats) -> Floats:
    z = logits - logits.max(axis=-1, keepdims=True)
    out: Floats = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return out


def hallucination(
    by_key: Mapping[tuple[str, str], Ranking],
    checkpoints: Sequence[Checkpoint],
    draws: int,
    seed: int,
    level: float,
) -> Iterator[Measured]:
    """What the model makes of names that nobody bears, per relation and as the mean over relations.

    Subjects are resampled within relations. `_prior_corrected` variants subtract the
    log-probability of each candidate after the context-free subject before normalising.
    X and J of N names lie below those of infinitely many (J by up to about (K - 1) / 2N, Miller
    1955); their intervals are of their means over sets of N names.
    """
    for checkpoint in checkpoints:
        here = {rel: r for (rev, rel), r in by_key.items() if rev == checkpoint.revision}
        mine = {rel: r for rel, r in here.items() if min(r.unseen.shape) > 1}
        yield from _left_out(here, mine, checkpoint.revision)
        if not mine:
            continue
        samplers = {
            rel: Resampler.make([rel] * len(r.unseen), draws, seed + i, level)
            for i, (rel, r) in enumerate(mine.items())
        }
        yield from _divergences(mine, samplers, checkpoint.revision)
        yield from _confidence(mine, samplers, checkpoint.revision)


_PRIOR_CORRECTED = (
    "hallucination.excess_loss_prior_corrected", "hallucination.name_information_prior_corrected",
)  # fmt: skip
_HALLUCINATION = (
    "hallucination.excess_loss", "hallucination.name_information",
    "hallucination.top_probability", "hallucination.normalised_entropy",
    "hallucination.confident_share",
)  # fmt: skip


def _left_out(
    here: Mapping[str, Ranking], mine: Mapping[str, Ranking], revision: str
) -> Iterator[Measured]:
    """Rows with a reason for the relations that cannot be measured, and for a mean over none."""
    too_few = "fewer than two unseen names or two candidates were measured"
    no_prior = "the context-free prior was not measured"
    priors = [rel for rel, r in mine.items() if r.prior is not None]
    for metrics, usable in ((_HALLUCINATION, list(mine)), (_PRIOR_CORRECTED, priors)):
        scopes = [rel for rel in here if rel not in usable]
        scopes += ["overall"] if here and not usable else []
        for metric in metrics:
            for scope in scopes:
                reason = no_prior if scope in mine or (scope == "overall" and mine) else too_few
                n = len(here[scope].unseen) if scope in here else 0
                yield Measured(metric, scope, revision, stats.missing(n, reason))


def _divergences(
    mine: Mapping[str, Ranking], samplers: Mapping[str, Resampler], revision: str
) -> Iterator[Measured]:
    for suffix in ("", "_prior_corrected"):
        spreads = {}
        for rel, r in mine.items():
            if suffix and r.prior is None:
                continue
            logits = r.unseen - r.prior if suffix and r.prior is not None else r.unseen
            spreads[rel] = excess_and_information(_log_softmax(logits), samplers[rel].counts)
        sizes = {rel: len(mine[rel].unseen) for rel in spreads}
        parts = {
            f"hallucination.excess_loss{suffix}": {k: (s.x, s.x_draws) for k, s in spreads.items()},
            f"hallucination.name_information{suffix}": {
                k: (s.j, s.j_draws) for k, s in spreads.items()
            },
        }
        for metric, by_relation in parts.items():
            yield from _per_relation_and_mean(metric, by_relation, samplers, sizes, revision)


def _per_relation_and_mean(
    metric: str,
    by_relation: Mapping[str, tuple[float, Floats]],
    samplers: Mapping[str, Resampler],
    sizes: Mapping[str, int],
    revision: str,
) -> Iterator[Measured]:
    if not by_relation:
        return
    for rel, (value, drawn) in by_relation.items():
        yield Measured(metric, rel, revision, _centred(value, drawn, samplers[rel], sizes[rel]))
    value = float(np.mean([v for v, _ in by_relation.values()]))
    drawn = np.mean([d for _, d in by_relation.values()], axis=0)
    sampler = next(iter(samplers.values()))
    estimate = _centred(value, drawn, sampler, sum(sizes[r] for r in by_relation))
    yield Measured(metric, "overall", revision, estimate)


def _confidence(
    mine: Mapping[str, Ranking], samplers: Mapping[str, Resampler], revision: str
) -> Iterator[Measured]:
    """Top probability, entropy, share of confident answers, and known against unseen."""
    per_subject: dict[str, Callable[[Floats], Floats]] = {
        "hallucination.top_probability": lambda q: q.max(axis=1),
        "hallucination.normalised_entropy": _normalised_entropy,
        "hallucination.confident_share": lambda q: (q.max(axis=1) > 0.5).astype(float),
    }
    for metric, f in per_subject.items():
        values = {rel: f(softmax(r.unseen)) for rel, r in mine.items()}
        support = (0.0, 1.0) if metric == "hallucination.confident_share" else None
        labels = np.concatenate([[rel] * len(v) for rel, v in values.items()])
        pooled = np.concatenate(list(values.values()))
        counts = np.concatenate([samplers[rel].counts for rel in values], axis=1)
        sampler = Resampler(counts, next(iter(samplers.values())).level)
        weights = stats.macro_weights(labels)
        estimate = stats.bootstrap_mean(pooled, sampler, weights, support)
        yield Measured(metric, "overall", revision, estimate)
        for rel, v in values.items():
            estimate = stats.bootstrap_mean(v, samplers[rel], support=support)
            yield Measured(metric, rel, revision, estimate)


def _normalised_entropy(q: Floats) -> Floats:
    h: Floats = -(q * np.log(np.maximum(q, np.finfo(float).tiny))).sum(axis=1)
    return h / math.log(q.shape[1])


def known_against_unseen(
    by_key: Mapping[tuple[str, str], Ranking],
    checkpoints: Sequence[Checkpoint],
    subsets: Mapping[str, Sequence[str]],
    draws: int,
    seed: int,
    level: float,
) -> Iterator[Measured]:
    """AUROC of the top candidate probability, known against unseen subjects, mean over relations.

    0.5: the model is as sure of names that nobody bears as of those it was asked about.
    Compared within relations, because relations differ in their number of candidates.
    """
    for scope, members in {"overall": None, **subsets}.items():
        for checkpoint in checkpoints:
            mine = [r for (rev, _), r in by_key.items() if rev == checkpoint.revision]
            pairs = [p for r in mine if (p := _confidences(r, members))]
            yield Measured(
                "hallucination.auroc",
                scope,
                checkpoint.revision,
                _auroc(pairs, np.random.default_rng(seed), draws, level),
            )


def _confidences(r: Ranking, members: Sequence[str] | None) -> tuple[Floats, Floats] | None:
    inside = [members is None or f in members for f in r.fact_ids]
    known, unseen = r.known[np.array(inside, dtype=bool)], r.unseen
    if not len(known) or not len(unseen) or len(r.candidates) < 2:
        return None
    return softmax(known).max(axis=1), softmax(unseen).max(axis=1)


def _auroc(
    pairs: Sequence[tuple[Floats, Floats]], rng: np.random.Generator, draws: int, level: float
) -> Estimate:
    n = sum(len(p) + len(q) for p, q in pairs)
    if not pairs:
        return stats.missing(0, "no relation has both known and unseen subjects")
    values, drawn = [], []
    for p, q in pairs:
        wins = (p[:, None] > q) + 0.5 * (p[:, None] == q)
        values.append(wins.mean())
        w = rng.multinomial(len(p), np.full(len(p), 1 / len(p)), size=draws) / len(p)
        v = rng.multinomial(len(q), np.full(len(q), 1 / len(q)), size=draws) / len(q)
        drawn.append(((w @ wins) * v).sum(axis=1))
    value = float(np.mean(values))
    tail = (1 - level) / 2
    low, high = np.quantile(np.mean(drawn, axis=0), [tail, 1 - tail])
    low, high = min(float(low), value), max(float(high), value)
    if not stats.flat(low, high):
        return Estimate(value, low, high, n, "bootstrap of subjects within relations")
    # every known name beats every unseen one, say: as many trials as there are disjoint pairs
    trials = sum(min(len(p), len(q)) for p, q in pairs)
    down, up = stats.unvaried(np.full(trials, value), np.ones(trials), (0.0, 1.0), level)
    return Estimate(value, value - down, value + up, n, "wilson")


# ---- all of it -------------------------------------------------------------------------------


def measure_all(
    recall: pa.Table,
    candidates: pa.Table,
    checkpoints: Sequence[Checkpoint],
    *,
    chance: Mapping[str, float],
    subsets: Mapping[str, Sequence[str]],
    draws: int,
    seed: int,
    level: float,
) -> list[Measured]:
    """Every metric of the recall track.

    Args:
        recall, candidates: the tables of those names.
        checkpoints: measured revisions in the order of training.
        chance: relation -> accuracy of guessing among its candidates.
        subsets: name -> fact ids, reported apart (e.g. stated and unstated).
        draws, seed, level: of the bootstrap.
    """
    c = cube(recall, checkpoints)
    if not c.checkpoints:
        return []
    scopes = fact_scopes(c, subsets)
    resampler = Resampler.make(c.relations, draws, seed, level)
    by_key = rankings(candidates)
    found = list(per_checkpoint(c, scopes, resampler))
    found += template_spread(c, scopes, resampler)
    found += loc_name_gap(c, scopes, resampler)
    found += over_series(c, scopes, resampler, chance)
    if by_key:
        found += candidate_metrics(by_key, c, scopes, resampler)
        found += hallucination(by_key, c.checkpoints, draws, seed, level)
        found += known_against_unseen(by_key, c.checkpoints, subsets, draws, seed, level)
    return found

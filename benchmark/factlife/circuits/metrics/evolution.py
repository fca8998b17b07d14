"""How roles change over checkpoints: overlaps with the last and the previous one, and switches.

Shapes: C = checkpoints, K = samples of the facts (all, then halves), R = relations, S = components
of a kind, D = draws.
Source: recall and circuits spec, section 6 (IoU, transitions: timecourse-2025; nulls: ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from factlife import stats
from factlife.circuits.metrics import halves, nulls
from factlife.circuits.metrics.activity import Bools, Layout
from factlife.circuits.metrics.registry import SETS, THIRDS, prefix
from factlife.circuits.metrics.roles import OVERALL, ROLE_CODES, Codes
from factlife.circuits.metrics.series import BRANCHES, NO_TOKENS, ONLY_ONE, Series
from factlife.config import Circuits, Intervals
from factlife.stats import Estimate, Floats, Measured

DIFFERENT = "the checkpoints differ in their number of layers, heads or experts"
_FIRST = "no checkpoint before this one"
_EMPTY = "no component holds this role at either checkpoint"
NARROW = ("relation", "fact", "active")  # general and entity sets are the same in every relation


@dataclass(frozen=True)
class Evolution:
    """Roles of one kind of component at every checkpoint.

    Attributes:
        kind: head, ffn or expert.
        layouts: [C] each model's components.
        scopes: `overall`, then the relations.
        codes: scope -> [C] roles [K, S] of each checkpoint.
    """

    kind: str
    layouts: tuple[Layout, ...]
    codes: Mapping[str, Sequence[Codes]]

    @property
    def alike(self) -> bool:
        """Whether all checkpoints have the same components."""
        return len(set(self.layouts)) == 1

    def whole(self, scope: str) -> Codes:
        """[C, S] roles from all facts; the checkpoints are alike."""
        return np.stack([codes[0] for codes in self.codes[scope]])


def members(codes: Codes, name: str) -> Bools:
    """Which components hold a role, or any role for `active`."""
    return codes > 0 if name == "active" else codes == ROLE_CODES.index(name)


def overlap(a: Bools, b: Bools, empty_union: str) -> tuple[Floats, int]:
    """IoU of sets [K, S] in each sample, and the size of the union in the first.

    Two empty sets: NaN, or 0 where `empty_union` is `zero`.
    """
    shared, union = (a & b).sum(axis=1), (a | b).sum(axis=1)
    nothing = 0.0 if empty_union == "zero" else np.nan
    values: Floats = np.where(union > 0, shared / np.maximum(union, 1), nothing)
    return values, int(union[0])


def unmeasurable(e: Evolution, series: Series, i: int, other: int | None) -> str:
    """Why checkpoint i has no overlap with another one; empty where it has."""
    if len(series.checkpoints) < 2:
        return ONLY_ONE
    if other is None:
        return BRANCHES if i else _FIRST
    return "" if e.layouts[i] == e.layouts[other] else DIFFERENT


def overlaps(e: Evolution, series: Series, settings: Circuits, level: float) -> Iterator[Measured]:
    """IoU of every role with the end of pretraining and with the checkpoint before, with nulls."""
    strata = [layout.strata(e.kind) for layout in e.layouts]
    for i, checkpoint in enumerate(series.checkpoints):
        before = i - 1 if i in series.pairs else None
        for against, other in (("last", series.reference), ("previous", before)):
            reason = unmeasurable(e, series, i, other)
            for scope in e.codes:
                for name in SETS if scope == OVERALL else NARROW:
                    metric = f"{prefix(e.kind)}iou_{against}_{name}"
                    if reason or other is None:
                        pair = stats.missing(0, reason), stats.missing(0, reason)
                    else:
                        a = members(e.codes[scope][i], name)
                        b = members(e.codes[scope][other], name)
                        value = iou(a, b, settings.empty_union, level)
                        pair = value, iou_null(a[0], b[0], strata[i], e.kind, level)
                    yield Measured(metric, scope, checkpoint.revision, pair[0])
                    yield Measured(f"{metric}_null", scope, checkpoint.revision, pair[1])


def iou(a: Bools, b: Bools, empty_union: str, level: float) -> Estimate:
    """IoU of two sets [K, S], with its spread over halves of the facts; n is the union."""
    values, union = overlap(a, b, empty_union)
    return stats.missing(0, _EMPTY) if np.isnan(values[0]) else halves.spread(values, level, union)


def iou_null(a: Bools, b: Bools, strata: stats.Ints, kind: str, level: float) -> Estimate:
    """Mean and quantiles of the IoU of two sets [S] whose identities are permuted."""
    null = nulls.overlap_null(a, b, strata)
    if null is None:
        return stats.missing(0, _EMPTY)
    n = int((a | b).sum())
    return nulls.band(null.mean, *null.quantiles(level), n, nulls.IDENTITIES[kind])


def general_excess(e: Evolution, series: Series, level: float, seed: int) -> Measured:
    """IoU of the general heads with the end of pretraining above its null, over ln(tokens).

    The mean height, by trapezoids, over the checkpoints before that end; the end itself, whose
    IoU is 1 by definition, is left out. Its null draws every checkpoint's IoU independently.
    """
    return Measured(
        "circuits.iou_general_excess", OVERALL, "", _general_excess(e, series, level, seed)
    )


_DRAWS = 2000


def _general_excess(e: Evolution, series: Series, level: float, seed: int) -> Estimate:
    end = series.reference
    tokens = {i: t for i in range(end) if (t := series.checkpoints[i].tokens)}
    if reason := _no_summary(e, series):
        return stats.missing(len(tokens), reason)
    rng = np.random.default_rng(seed)
    values, drawn, used = [], [], []
    strata = e.layouts[end].strata(e.kind)
    for i, t in tokens.items():
        a, b = (members(e.codes[OVERALL][j][0], "general") for j in (i, end))
        null = nulls.overlap_null(a, b, strata)
        if null is not None:
            values.append(float((a & b).sum() / (a | b).sum()) - null.mean)
            drawn.append(null.draw(rng, _DRAWS) - null.mean)
            used.append(t)
    area = stats.area_over_log_tokens(used, values) if used else None
    if area is None:
        return stats.missing(len(used), "fewer than two checkpoints before the last to compare")
    chance = [stats.area_over_log_tokens(used, d) for d in np.transpose(drawn)]
    tail = (1 - level) / 2
    low, high = np.quantile(np.array(chance, dtype=np.float64), [tail, 1 - tail])
    return nulls.excess(area, 0.0, float(low), float(high), len(used), nulls.IDENTITIES[e.kind])


def _no_summary(e: Evolution, series: Series) -> str:
    """Why overlaps have no mean over ln(tokens); empty where they have."""
    end = series.reference
    if len(series.checkpoints) < 2:
        return ONLY_ONE
    if len(set(e.layouts[: end + 1])) > 1:
        return DIFFERENT
    if any(c.tokens is None for c in series.checkpoints[:end]):
        return NO_TOKENS
    return BRANCHES if any(series.goes_back(i) for i in range(1, end + 1)) else ""


def split_half(
    e: Evolution, series: Series, settings: Circuits, level: float
) -> Iterator[Measured]:
    """IoU of the sets that two halves of the facts give, at each checkpoint; n is their number.

    What is left of an overlap once the facts differ: no comparison of such sets can show more.
    """
    for i, checkpoint in enumerate(series.checkpoints):
        codes = e.codes[OVERALL][i]
        one, two = codes[1::2], codes[2::2]
        for name in SETS:
            if len(one):
                values, _ = overlap(members(one, name), members(two, name), settings.empty_union)
            else:
                values = np.array([np.nan])
            if np.isnan(values).all():
                estimate = stats.missing(0, "no component holds this role in any half of the facts")
            else:
                estimate = halves.agreement(values, level, len(values))
            yield Measured(f"circuits.split_half_{name}", OVERALL, checkpoint.revision, estimate)


# ---- switches --------------------------------------------------------------------------------


def is_switch() -> Bools:
    """[25] which changes of role lead from an active role to another one."""
    n = nulls.N_ROLES
    before, after = np.divmod(np.arange(n * n), n)
    switch: Bools = (before > 0) & (after > 0) & (before != after)
    return switch


def thirds(n_layers: int) -> dict[str, list[int]]:
    """Layers of the early, middle and late third; the first ones take what is left over."""
    parts = np.array_split(np.arange(n_layers), 3)
    return {name: part.tolist() for name, part in zip(THIRDS, parts, strict=True)}


def switches(
    e: Evolution, series: Series, settings: Circuits, intervals: Intervals
) -> Iterator[Measured]:
    """Switches between active roles per head of each third of the layers, with their null.

    The interval of the number resamples heads within layers; that of the excess is the null's.
    """
    if reason := _no_switches(e, series):
        for third in THIRDS:
            yield from _three(third, [stats.missing(0, reason)] * 3)
        return
    codes, layout = e.whole(OVERALL), e.layouts[0]
    strata, switch = layout.strata(e.kind), is_switch()
    per_head = nulls.changes(codes, series.pairs)[:, switch].sum(axis=1)
    expected = nulls.expected_changes(codes, series.pairs, strata)[:, switch].sum(axis=1)
    rng = np.random.default_rng(intervals.seed)
    drawn = nulls.permuted_changes(codes, series.pairs, strata, settings.null_draws, rng)
    by_layer = drawn[:, :, switch].sum(axis=2)
    resampler = stats.Resampler.make(
        strata.tolist(), intervals.draws, intervals.seed, intervals.level
    )
    for third, layers in thirds(layout.n_layers).items():
        inside = np.isin(strata, layers)
        n = int(inside.sum())
        if not n:
            yield from _three(third, [stats.missing(0, "fewer than three layers")] * 3)
            continue
        value = _per_head(per_head[inside], resampler.subset(inside), len(series.pairs))
        tail = (1 - intervals.level) / 2
        low, high = np.quantile(by_layer[:, layers].sum(axis=1) / n, [tail, 1 - tail])
        null = float(expected[layers].sum() / n), float(low), float(high)
        above = float(per_head[inside].mean()), *null, n, nulls.IDENTITIES[e.kind]
        yield from _three(third, [value, nulls.band(*above[1:]), nulls.excess(*above)])


def _per_head(switched: stats.Ints, resampler: stats.Resampler, most: int) -> Estimate:
    """Mean over heads, with an interval that resamples heads within layers."""
    estimate = stats.bootstrap_mean(switched, resampler, support=(0, most))
    if estimate.method == "bootstrap of facts within relations":
        return replace(estimate, method="bootstrap of heads within layers")
    return estimate


def _three(third: str, estimates: Sequence[Estimate]) -> Iterator[Measured]:
    for suffix, estimate in zip(("", "_null", "_excess"), estimates, strict=True):
        yield Measured(f"circuits.switches_{third}{suffix}", OVERALL, "", estimate)


def _no_switches(e: Evolution, series: Series) -> str:
    if len(series.checkpoints) < 2:
        return ONLY_ONE
    if not e.alike:
        return DIFFERENT
    return "" if series.pairs else BRANCHES

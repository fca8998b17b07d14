"""Every number of one injection run, with its draws; `overall` puts the seeds together.

Keys are (metric, scope inside the run): "" for all arms, an arm, a depth, or arm.depth. N =
passages, I = injections, B = draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from factlife.injection.metrics import corruption, decay, effect, published
from factlife.injection.metrics import retention as kept
from factlife.injection.metrics.curves import CONTROL, Curves, Mask
from factlife.injection.metrics.samples import (
    Bootstrap,
    Sample,
    absent,
    combined,
    difference,
    interval,
    mapped,
    mean_of,
    slope_weights,
)
from factlife.stats import Floats, Resampler

Key = tuple[str, str]
Found = dict[Key, Sample]


_ARM_PAIRS = (("duplication", "paraphrase"), ("duplication", "once"), ("paraphrase", "once"))
_AS_PRINTED = "injection.effectivity_published"


def scope(*parts: str | None) -> str:
    """Parts that are there, joined by dots."""
    return ".".join(p for p in parts if p)


@dataclass
class Numbers:
    """The numbers of one run.

    Attributes:
        facts: of the fact-probes data set, where they were asked.
        background: (step, loss) where it was measured.
        alone, background_alone: the same of the start's background-only run, if there is one.
    """

    c: Curves
    boot: Bootstrap
    facts: corruption.Facts | None
    background: Sequence[tuple[int, float]]
    alone: corruption.Facts | None = None
    background_alone: Sequence[tuple[int, float]] = ()
    found: Found = field(default_factory=dict)

    def compute(self) -> Found:
        """All of them."""
        for part in (
            self._effectivity, self._placebo, self._contrasts, self._published, self._accumulation,
            self._gains, self._levels, self._retention, self._decay_contrasts, self._corruption,
            self._fluctuation,
        ):  # fmt: skip
            self.found.update(dict(part()))
        return self.found

    # ---- what is measured --------------------------------------------------------------------

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Arms that were injected."""
        return self.c.injected_arms

    @cached_property
    def lasting(self) -> tuple[str, ...]:
        """Arms that were injected more than once."""
        return tuple(a for a in self.arms if len(self.c.times(a)) > 1)

    @cached_property
    def depths(self) -> tuple[str | None, ...]:
        """All probes, then each depth; studies of spacing and frequency do not part the depths."""
        parted = self.c.run["study"] not in ("spacing", "frequency")
        return (None, *self.c.known_depths) if parted else (None,)

    @cached_property
    def y(self) -> dict[str | None, Floats]:
        """Depth -> [S, N]."""
        return {d: self.c.by_passage(d) for d in self.depths}

    def _sample(self, z: Floats | str) -> Sample:
        return absent(len(self.c.passages), z) if isinstance(z, str) else self.boot.sample(z)

    def _over_arms(
        self, metric: str, arms: Sequence[str], value: Callable[[str, str | None], Sample]
    ) -> Iterator[tuple[Key, Sample]]:
        """A number of every arm and depth, and its means over arms."""
        for d in self.depths:
            mine = [value(a, d) for a in arms]
            for a, s in zip(arms, mine, strict=True):
                yield (metric, scope(a, d)), s
            if mine:
                yield (metric, scope(d)), self._mean(mine)

    def _mean(self, samples: Sequence[Sample]) -> Sample:
        """Mean over arms, which are disjoint passages and share their controls."""
        return replace(mean_of(samples), n=len(self.c.passages))

    # ---- acquisition -------------------------------------------------------------------------

    def _readings(self, arm: str, depth: str | None) -> effect.Readings | str:
        y = effect.aligned(self.c, self.y[depth], arm)
        return effect.readings(self.c, y, arm, self.c.times(arm))

    def _effectivity(self) -> Iterator[tuple[Key, Sample]]:
        def value(arm: str, depth: str | None) -> Sample:
            r = self._readings(arm, depth)
            return self._sample(r if isinstance(r, str) else r.z.mean(axis=0))

        yield from self._over_arms("injection.effectivity", self.arms, value)

    def _placebo(self) -> Iterator[tuple[Key, Sample]]:
        metric = "injection.effectivity_placebo"
        mine = []
        for arm in self.arms:
            times = effect.placebo_times(self.c, arm)
            if times:
                r = effect.readings(self.c, self.y[None], arm, times)
                s = self._sample(r if isinstance(r, str) else r.z.mean(axis=0))
                yield (metric, arm), s
                mine.append(s)
        yield (metric, ""), self._mean(mine) if mine else absent(0, "no placebo steps were probed")

    def _contrasts(self) -> Iterator[tuple[Key, Sample]]:
        e, metric = self.found, "injection.effectivity"
        name = "injection.effectivity_difference"
        for a, b in _ARM_PAIRS:
            if {a, b} <= set(self.arms):
                yield (name, f"{a}-{b}"), difference(e[metric, a], e[metric, b])
        for a, b in (("memorization", "semantic"), ("semantic", "compositional")):
            if {a, b} <= set(self.depths):
                yield (name, f"{a}-{b}"), difference(e[metric, a], e[metric, b])
        if {"memorization", "semantic"} <= set(self.depths):
            gap = {
                a: difference(e[metric, scope(a, "memorization")], e[metric, scope(a, "semantic")])
                for a in ("duplication", "paraphrase")
                if a in self.arms
            }
            if len(gap) == 2:
                change = difference(gap["duplication"], gap["paraphrase"])
                yield (name, "gap_duplication-gap_paraphrase"), change
        yield from self._first_and_later(name)

    def _first_and_later(self, name: str) -> Iterator[tuple[Key, Sample]]:
        """E of the first encounter minus the mean of the later ones, in arms with both."""
        mine = []
        for arm in self.lasting:
            r = self._readings(arm, None)
            z = r if isinstance(r, str) else r.z[0] - r.z[1:].mean(axis=0)
            mine.append(self._sample(z))
            yield (name, scope(arm, "first-later")), mine[-1]
        if mine:
            yield (name, "first-later"), self._mean(mine)

    def _accumulation(self) -> Iterator[tuple[Key, Sample]]:
        """Slope of G(k) in k: nats per injection that are still there when the next one comes."""
        mine = []
        for arm in self.lasting:
            g = effect.before_next(self.c, self.y[None], arm)
            if not isinstance(g, str):
                w = np.array(slope_weights(range(len(g))))
                mine.append(self._sample(w @ g))
            else:
                mine.append(self._sample(g))
            yield ("injection.accumulation", arm), mine[-1]
        if mine:
            yield ("injection.accumulation", ""), self._mean(mine)

    @cached_property
    def phases(self) -> dict[str, int]:
        """Step of each phase among the probed ones."""
        return corruption.phase_steps(self.c.run, self.c.steps.tolist())

    def _gains(self) -> Iterator[tuple[Key, Sample]]:
        def value(arm: str, depth: str | None) -> Sample:
            return self._sample(effect.gain(self.c, self.y[depth], arm, self.phases["during"]))

        yield from self._over_arms("injection.gain", self.arms, value)

    def _levels(self) -> Iterator[tuple[Key, Sample]]:
        """Plain means before, during and after, controls included: nothing is subtracted."""
        c = self.c
        grids = {
            "injection.logprob_sum": c.by_passage(),
            "injection.logprob_per_token": c.by_passage(per_token=True),
            "injection.rank": c.mean_over_probes(np.log10(1 + c.rank)),
            "injection.exact_match": c.mean_over_probes(c.exact),
        }
        for metric, y in grids.items():
            for phase, step in self.phases.items():
                at = c.place(step)
                assert at is not None  # phases are among the probed steps
                for arm in (*self.arms, CONTROL):
                    inside = c.arms == arm
                    if inside.any() and not np.isnan(y[at, inside]).any():
                        z = np.where(inside, y[at] / inside.sum(), 0.0)
                        yield (
                            (metric, scope(arm, phase)),
                            self.boot.sample(z, int(inside.sum()), halves=False),
                        )

    def _fluctuation(self) -> Iterator[tuple[Key, Sample]]:
        z = effect.fluctuation(self.c, self.y[None])
        yield ("injection.fluctuation", ""), self._sample(z)

    # ---- forgetting --------------------------------------------------------------------------

    def _retention(self) -> Iterator[tuple[Key, Sample]]:
        if self.c.run["study"] in ("spacing", "frequency"):
            return
        arms = self.lasting or self.arms
        for d in self.depths:
            found = {a: kept.retention(self.c, self.y[d], a) for a in self.arms}
            for a, r in found.items():
                for metric, s in self._decay(r).items():
                    yield (metric, scope(a, d)), s
            if arms:
                pooled = kept.pooled([found[a] for a in arms])
                for metric, s in self._decay(pooled).items():
                    yield (metric, scope(d)), s
                if d is None:
                    yield from self._kept_after(pooled, None)
                    for a in arms:
                        yield from self._kept_after(found[a], a)

    def _kept_after(self, r: kept.Retention | str, arm: str | None) -> Iterator[tuple[Key, Sample]]:
        """R at times that all runs share, for as long as this one was followed."""
        if isinstance(r, str) or not kept.has_gain(r, self.boot):
            return
        times = kept.shared_times(r.t[-1])
        curves = np.vstack([r.curve, kept.curve_draws(r, self.boot)])
        at = kept.over_log(r.t, curves, times)
        for t, values in zip(times.tolist(), at.T, strict=True):
            s = Sample(float(values[0]), values[1:], len(self.c.passages))
            yield ("injection.retention", scope(arm, f"t{t:g}")), s

    def _decay(self, r: kept.Retention | str) -> dict[str, Sample]:
        n = len(self.c.passages)
        if isinstance(r, str) or not kept.has_gain(r, self.boot):
            why = r if isinstance(r, str) else self.boot.sample(r.peak).reason or kept.NOTHING
            return dict.fromkeys(DECAY, absent(n, why))
        drawn = kept.curve_draws(r, self.boot)
        usable = ~np.isnan(drawn).any(axis=1)
        numbers = {"injection.retained": kept.kept_at_end(r, self.boot)}
        if len(r.t) < 5:
            return dict.fromkeys(DECAY, absent(n, "too few times to fit a law")) | numbers
        curves = np.vstack([r.curve, drawn[usable]])
        fits = decay.fit(r.t, curves)

        def sample(values: Floats) -> Sample:
            draws = np.full(len(drawn), np.nan)
            draws[usable] = values[1:]
            return Sample(float(values[0]), draws, n)

        numbers |= {
            "injection.decay_constant": sample(fits.a),
            "injection.decay_theil_sen": sample(decay.theil_sen(r.t, curves)),
            "injection.power_exponent": sample(fits.power),
            "injection.exponential_time": sample(fits.tau),
            "injection.log_fit_advantage": sample(fits.log_advantage),
            "injection.threshold_steps": self._threshold(sample(fits.intercept)),
        }
        tokens = float(np.log10(self.c.run["batch_rows"] * self.c.run["context"]))
        steps = numbers["injection.threshold_steps"]
        numbers["injection.threshold_tokens"] = mapped(steps, lambda v: v + tokens)
        return numbers

    def _threshold(self, s: Sample) -> Sample:
        """An x-intercept, unless some of its draws do not decay at all."""
        assert s.value is not None
        drawn = s.draws[~np.isnan(s.draws)]
        top = np.quantile(drawn, (1 + self.boot.resampler.level) / 2, method="higher")
        if not np.isfinite(s.value) or np.isinf(top):
            return absent(s.n, "the decay is not above 0 with its interval: no x-intercept")
        return Sample(s.value, np.where(np.isinf(s.draws), np.nan, s.draws), s.n)

    def _decay_contrasts(self) -> Iterator[tuple[Key, Sample]]:
        a = self.found
        pairs = (
            ("duplication", "paraphrase"), ("memorization", "compositional"),
            ("semantic", "compositional"),
        )  # fmt: skip
        for first, second in pairs:
            keys = [("injection.decay_constant", k) for k in (first, second)]
            if all(k in a for k in keys):
                yield (
                    ("injection.decay_difference", f"{first}-{second}"),
                    difference(a[keys[0]], a[keys[1]]),
                )

    # ---- as published ------------------------------------------------------------------------

    def _published(self) -> Iterator[tuple[Key, Sample]]:
        c = self.c
        longest = max(self.arms, key=lambda a: len(c.times(a)), default=None)
        groups = [(a, c.times(a)) for a in self.arms]
        groups += [(CONTROL, c.times(longest))] if longest else []
        mine = []
        for arm, times in groups:
            for depth in self.depths:
                probes = (c.arms == arm)[c.passage_of]
                probes &= True if depth is None else c.depths == depth
                numbers = dict(self._published_of(arm, depth, probes, times))
                yield from numbers.items()
                if depth is None and arm != CONTROL and numbers:
                    mine.append(numbers[_AS_PRINTED, arm])
        if mine:
            yield (_AS_PRINTED, ""), self._mean(mine)

    def _published_of(
        self, arm: str, depth: str | None, probes: Mask, times: Sequence[int]
    ) -> Iterator[tuple[Key, Sample]]:
        """The published numbers of some probes; those of controls are the formula's own null."""
        level, where = published.per_token(self.c, arm), scope(arm, depth)
        found = published.maxima(self.c, level, probes, times) if probes.any() else None
        if found is None:
            return
        yield (_AS_PRINTED, where), self._filtered(found[0], probes, published.PRINTED)
        as_coded = "injection.effectivity_published_code"
        yield (as_coded, where), self._filtered(found[0], probes, published.CODE)
        if arm != CONTROL and self.c.run["study"] in ("main", "batch", "lr"):
            r = published.retainability(self.c, level, probes, times)
            if r is not None:
                yield from self._line(where, *r, probes)

    def _filtered(self, values: Floats, probes: Mask, factor: float) -> Sample:
        """Filtered mean of [I, p] over probes, then over injections; draws are of passages."""
        top, bottom = self._sums(values, probes, factor)
        drawn = self._quotients(top, bottom).mean(axis=1)
        value = float(published.filtered_mean(values, factor).mean())
        return Sample(value, drawn, len(np.unique(self.c.passage_of[probes])))

    def _sums(self, values: Floats, probes: Mask, factor: float) -> tuple[Floats, Floats]:
        """Sum and number of the kept values of each passage: [I, N] twice."""
        keep = published.within_quartiles(values, factor)
        member = np.zeros((int(probes.sum()), len(self.c.passages)))
        member[np.arange(len(member)), self.c.passage_of[probes]] = 1.0
        return np.where(keep, values, 0.0) @ member, keep @ member

    def _quotients(self, top: Floats, bottom: Floats) -> Floats:
        """[B, I] draws of sums over numbers."""
        counts = self.boot.resampler.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn: Floats = (counts @ top.T) / (counts @ bottom.T)
        return drawn

    def _line(
        self, where: str, t: Floats, ratio: Floats, probes: Mask
    ) -> Iterator[tuple[Key, Sample]]:
        """a and b / a of the published fit to the filtered means of R."""
        mean = published.filtered_mean(ratio, published.PRINTED)
        drawn = self._quotients(*self._sums(ratio, probes, published.PRINTED))
        a, b, _ = decay.line(np.log10(t), np.vstack([mean, drawn]))
        n = len(np.unique(self.c.passage_of[probes]))
        yield ("injection.decay_published", where), Sample(float(a[0]), a[1:], n)
        metric = ("injection.threshold_published", where)
        if a[0] > 0:
            with np.errstate(divide="ignore", invalid="ignore"):
                crossing = np.where(a > 0, b / a, np.nan)
            yield metric, Sample(float(crossing[0]), crossing[1:], n)
        else:
            yield metric, absent(n, "no decay: no x-intercept")

    # ---- corruption --------------------------------------------------------------------------

    def _corruption(self) -> Iterator[tuple[Key, Sample]]:
        if self.facts is not None and self.facts.relations:
            yield from self._facts_lost(self.facts)
        if len(self.background) > 1:
            loss, other = dict(self.background), dict(self.background_alone)
            at = corruption.phase_steps(self.c.run, sorted(loss))
            for phase in ("during", "after"):
                change = loss[at[phase]] - loss[at["before"]]
                yield (
                    ("injection.background_loss_change", phase),
                    Sample(change, np.empty(0), 1),
                )
                if at[phase] in other and at["before"] in other:
                    excess = change - (other[at[phase]] - other[at["before"]])
                    yield (
                        ("injection.background_loss_excess", phase),
                        Sample(excess, np.empty(0), 1),
                    )

    def _facts_lost(self, f: corruption.Facts) -> Iterator[tuple[Key, Sample]]:
        """Facts are resampled within relations, apart from the passages."""
        at = corruption.phase_steps(self.c.run, f.steps.tolist())
        base = int(np.searchsorted(f.steps, at["before"]))
        draws = len(self.boot.resampler.counts)
        sampler = Resampler.make(f.relations, draws, len(f.relations), self.boot.resampler.level)
        ones = np.ones(len(f.relations))
        for phase in ("during", "after"):
            here = int(np.searchsorted(f.steps, at[phase]))
            lost = {}
            for metric, values in (("nats", f.logprob), ("share", f.whole)):
                x = values[base] - values[here]
                lost[metric] = Sample(float(x.mean()), sampler.means(x, ones), len(x))
            yield ("injection.facts_lost_nats", phase), lost["nats"]
            yield ("injection.facts_lost", phase), lost["share"]
            raw = self._per_nat(lost["nats"], at[phase])
            yield ("injection.corruption_uncorrected", phase), raw
            yield from self._against_background(f, at["before"], at[phase], phase)

    def _against_background(
        self, f: corruption.Facts, before: int, then: int, phase: str
    ) -> Iterator[tuple[Key, Sample]]:
        """What real facts lose beyond what they lose on the same background without passages.

        Fact by fact, so that what both runs share cancels; the same draws for all three numbers.
        """
        lost = self.alone.lost(before, then) if self.alone is not None else None
        if self.alone is None or lost is None:
            yield ("injection.corruption", phase), absent(len(f.ids), NO_BACKGROUND_RUN)
            return
        ids = [i for i in f.ids if i in set(self.alone.ids)]
        if not ids:
            yield ("injection.corruption", phase), absent(0, "no fact was asked in both runs")
            return
        mine, other = f.only(ids), self.alone.only(ids)
        x, y = mine.lost(before, then), other.lost(before, then)
        assert x is not None and y is not None  # both were asked at these steps
        draws = len(self.boot.resampler.counts)
        sampler = Resampler.make(mine.relations, draws, len(ids), self.boot.resampler.level)
        ones = np.ones(len(ids))
        alone = Sample(float(y.mean()), sampler.means(y, ones), len(ids))
        excess = Sample(float((x - y).mean()), sampler.means(x - y, ones), len(ids))
        yield ("injection.facts_lost_background", phase), alone
        yield ("injection.facts_lost_excess", phase), excess
        yield ("injection.corruption", phase), self._per_nat(excess, then)

    def _per_nat(self, lost: Sample, step: int) -> Sample:
        """Nats lost on a real fact per nat gained on a fictional target, at one step."""
        z = [effect.gain(self.c, self.y[None], a, step) for a in self.arms]
        for part in z:
            if isinstance(part, str):
                return absent(lost.n, part)
        gain = combined([1 / len(z)] * len(z), [self._sample(part) for part in z])
        if gain.value is None or lost.value is None:
            return absent(lost.n, gain.reason or "not measured")
        if interval(gain, self.boot.resampler.level)[0] <= 0:
            return absent(lost.n, "nothing was gained with certainty, to set the loss against")
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = np.where(gain.draws > 0, lost.draws / gain.draws, np.nan)
        return Sample(lost.value / gain.value, drawn, lost.n)


NO_BACKGROUND_RUN = (
    "no background-only run of this start to compare with (background_runs); what injection and "
    "continued training take together is injection.corruption_uncorrected"
)
DECAY = (
    "injection.retained", "injection.decay_constant", "injection.decay_theil_sen",
    "injection.power_exponent", "injection.exponential_time", "injection.log_fit_advantage",
    "injection.threshold_steps", "injection.threshold_tokens",
)  # fmt: skip

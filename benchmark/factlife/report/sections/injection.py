"""Injection: acquisition, what is kept, spacing, corruption, and the claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from factlife.injection.claims import Claim, Part
from factlife.injection.metrics.curves import CONTROL
from factlife.injection.metrics.decay import LAWS as LAW_NAMES
from factlife.report import injection_charts as charts
from factlife.report import injection_rows as data
from factlife.report import text
from factlife.report.figures import Figure, Key, Panel, variable
from factlife.report.html import Child, Html, h, join
from factlife.report.injection_data import LAWS, Injection, Row
from factlife.report.sections.base import Section, paragraphs
from factlife.report.tables import estimate, number_cell, table
from factlife.report.view import View
from factlife.scores import BY_NAME

_SHARE = "share of the gain per decade"
_STARTS = {"first": "muted", "early": "name", "mid": "stated", "late": "loc"}


def acquisition(view: View) -> Section | None:
    """Log-probability curves, effectivity with its null, and the published formula."""
    found = view.injection
    if found is None:
        return None
    body = join([
        h("p", "Passages about made-up subjects are put into the training text, and probes about "
          "them are read along the way. Effects are minus those on control passages, whose "
          "probes are read but whose text is never shown."),
        _unbalanced(found),
        _runs_table(found),
    ])  # fmt: skip
    figures = [_curves(found), _effect(found), _published(found)] if found.main else []
    return Section("injection", "Injection: acquiring facts", "Acquisition", body, figures)


def _unbalanced(found: Injection) -> Html | None:
    loose = dict.fromkeys(r["position"] for r in found.runs if not r["balanced"])
    if not loose:
        return None
    starts = ", ".join(map(str, loose))
    return h(
        "p",
        f"Unbalanced ({starts}): there are too few seeds for every passage to take every arm, so "
        "that arms differ in their passages too.",
        class_="banner",
    )


def _runs_table(found: Injection) -> Html:
    head = ["run", "start", "training tokens", "steps", "batch rows", "learning rate",
            "injections", "flags", "measured"]  # fmt: skip
    rows: list[list[Child]] = [
        [
            r["injection_run"],
            r["revision"],
            h("td", "–" if r["start_tokens"] is None else text.si(r["start_tokens"]),
              class_="number"),
            number_cell(r["steps"]),
            number_cell(r["batch_rows"]),
            h("td", f"{r['peak_lr']:.3g}", class_="number"),
            number_cell(len(r["injection_steps"])),
            h("td", [h("span", f, class_="chip warn") for f in r["flags"]] or "–"),
            f"no: {r['reason']}" if r["reason"] else "yes",
        ]
        for r in found.runs
    ]  # fmt: skip
    title = text.counted(len(rows), "injection run")
    return h("details", h("summary", title), table("Injection runs", head, rows))


def _choices(starts: Sequence[str]) -> list[tuple[str, str]]:
    return [(s, s) for s in starts] if len(starts) > 1 else []


def _ends(rows: Iterable[Row], room: float = 0.06) -> tuple[float, float]:
    """Lowest and highest value or interval end, 0 included, with a little room."""
    ends = [r[k] for r in rows for k in ("value", "ci_low", "ci_high") if r.get(k) is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    reach = room * ((high - low) or 1.0)
    return low - reach if low < 0 else 0.0, high + reach


def _curves(found: Injection) -> Figure:
    starts = list(reversed(found.main))
    rows = list(data.curve_rows(found))
    last = max(r["step"] for r in rows)
    first = found.groups[starts[0]][0]
    arms = [*first.injected_arms, CONTROL]
    keys = [Key(d, c) for d, c in charts.DEPTH_COLOURS.items() if d in first.known_depths]
    return Figure(
        "injection-curves",
        "Log-probability of injected facts and of controls",
        "Mean change of the targets' summed log-probability since before the first injection, raw; "
        "upright lines are injections of the arm, or of others among the controls.",
        spec=charts.curves(_ends(rows), last),
        dataset="injection_curves",
        where={"scope": starts[:1]},
        columns=("scope", "arm", "depth", "kind", "step", "value"),
        legend=[*keys, Key("injection", variable("line"))],
        panels=[Panel(_arm(a), {"arm": [a]}) for a in arms],
        choices=_choices(starts),
        choice_label="Start of injection",
    )


def _arm(arm: str) -> str:
    return "controls, never injected" if arm == CONTROL else arm


def _effect(found: Injection) -> Figure:
    measures = ("effectivity", "effectivity_placebo")
    rows = [r for r in data.score_rows(found) if r["measure"] in measures]
    title = "Effectivity, and the same where nothing was injected"
    about = (
        "How far one encounter raises a target's log-probability, controls subtracted; grey: the "
        "same number at steps at which nothing of the arm was injected, which should be 0."
    )
    if not rows:
        why = "no effectivity could be computed"
        return Figure("injection-effectivity", title, about, missing=why)
    order = list(dict.fromkeys(r["label"] for r in rows))
    kinds = [*charts.DEPTH_COLOURS, "null"]
    tones = [*charts.DEPTH_COLOURS.values(), charts.NULL]
    shown = {r["kind"] for r in rows}
    keys = [Key("placebo" if k == "null" else k, c, kind="box")
            for k, c in zip(kinds, tones, strict=True) if k in shown]  # fmt: skip
    return Figure(
        "injection-effectivity",
        title,
        about,
        spec=charts.bars("nats per target", order, kinds, tones, _ends(rows)),
        dataset="injection_scores",
        where={"measure": measures},
        columns=("scope", "label", "value", "ci_low", "ci_high", "n"),
        legend=keys,
        panels=_panels(rows),
    )


def _published(found: Injection) -> Figure:
    rows = [r for r in data.score_rows(found) if r["measure"] == "effectivity_published"]
    title = "The published formula on the same runs"
    about = (
        "Effectivity as injection-2024 computes it: the highest of all readings in the window, per "
        "token, without controls. The grey bar is what it gives for passages that were never shown."
    )
    if not rows:
        why = "the steps of injection were not probed"
        return Figure("injection-published", title, about, missing=why)
    return Figure(
        "injection-published",
        title,
        about,
        spec=charts.bars(
            "nats per token", list(dict.fromkeys(r["label"] for r in rows)),
            ["published", "null"], [charts.PUBLISHED, charts.NULL], _ends(rows),
        ),
        dataset="injection_scores",
        where={"measure": ["effectivity_published"]},
        columns=("scope", "label", "value", "ci_low", "ci_high", "n"),
        legend=[Key("injected", charts.PUBLISHED, kind="box"),
                Key("never injected", charts.NULL, kind="box")],
        panels=_panels(rows),
    )  # fmt: skip


def _panels(rows: Iterable[Row]) -> list[Panel]:
    """A panel a start, in the order of training; none where there is only one."""
    starts = list(dict.fromkeys(r["scope"] for r in rows))
    return [Panel(s, {"scope": [s]}) for s in starts] if len(starts) > 1 else []


# ---- forgetting ------------------------------------------------------------------------------


def forgetting(view: View) -> Section | None:
    """What is kept after the last injection, with three laws of decay."""
    found = view.injection
    if found is None or not found.main:
        return None
    title = "Share of the gain that is kept"
    about = (
        "Ratio of mean gains over one set of probes, against the logarithm of the steps since the "
        "peak after the last injection. A straight line here is a logarithmic law."
    )
    body = [h("p", "Each law is fitted to the same points; the one with the lowest AICc describes "
              "them best. Lower decay constants forget more slowly.")]  # fmt: skip
    if not found.kept:
        why = "no arm gained anything with certainty, so there is nothing to forget"
        figure = Figure("injection-retention", title, about, missing=why)
        return Section("forgetting", "Forgetting", "Forgetting", join(body), [figure])
    body.append(_fits_table(found))
    starts = [s for s in reversed(found.main) if any(p == s for p, _ in found.kept)]
    arms = list(dict.fromkeys(a for _, a in found.kept))
    both = [s for s in starts if all((s, a) in found.kept for a in arms)] or starts[:1]
    rows = list(data.retention_rows(found))
    shown = [a for a in arms if (both[0], a) in found.kept]
    low, high = _ends([r for r in rows if r["law"] == "measured"])
    keys = [Key(law, variable("name"), i) for i, law in enumerate(LAWS)]
    figure = Figure(
        "injection-retention",
        title,
        about,
        spec=charts.retention(LAWS, max(r["x"] for r in rows), (low, max(high, 1.05))),
        dataset="injection_retention",
        where={"scope": both[:1]},
        columns=("scope", "arm", "law", "t", "value", "ci_low", "ci_high"),
        legend=[Key("measured, with its interval", variable("ink")), *keys],
        panels=[Panel(a, {"arm": [a]}, _note(found, both[0], a)) for a in shown],
        choices=_choices(both),
        choice_label="Start of injection",
        notes=[f"Not shown: {s} (an arm gained nothing with certainty)."
               for s in found.main if s not in both],
    )  # fmt: skip
    return Section("forgetting", "Forgetting", "Forgetting", join(body), [figure])


def _note(found: Injection, start: str, arm: str) -> str:
    row = found.score("decay_constant", f"{start}.{arm}")
    only = len(found.main) == 1
    return f"{text.number(row['value'], row['unit'])} a decade" if row and only else ""


def _fits_table(found: Injection) -> Html:
    head = ["start and arm", "log: lost per decade", "x-intercept, steps", "power: exponent",
            "exponential: steps", "Theil–Sen, per decade", "lowest AICc",
            "others, AICc"]  # fmt: skip
    rows: list[list[Child]] = []
    for (start, arm), k in found.kept.items():
        f, best = k.fits, k.fits.chosen
        lead = float(f.aicc[best][0])
        others = ", ".join(f"{name} +{float(f.aicc[law][0]) - lead:.1f}"
                           for name, law in zip(LAWS, LAW_NAMES, strict=True)
                           if law != best)  # fmt: skip
        crossing = float(f.intercept[0])
        far = "never" if math.isinf(crossing) else "> 1B"
        reached = far if crossing > 9 else text.si(10**crossing)
        rows.append([
            f"{start}, {arm}",
            _number(text.number(float(f.a[0]), _SHARE)),
            _number(reached),
            _number(text.number(float(f.power[0]), "exponent")),
            _number(text.si(float(f.tau[0]))),
            _number(text.number(k.theil_sen, _SHARE)),
            LAWS[LAW_NAMES.index(best)],
            others,
        ])  # fmt: skip
    return table("Laws of decay, fitted to all depths, seeds averaged", head, rows)


def _number(shown: str) -> Html:
    return h("td", shown, class_="number")


# ---- spacing ---------------------------------------------------------------------------------


def spacing(view: View) -> Section | None:
    """The spacing sweep with its threshold, if the study was run."""
    found = view.injection
    if found is None or not found.study("spacing"):
        return None
    figures = []
    for prefix in found.study("spacing"):
        rows = [r for r in data.spacing_rows(found) if r["scope"] == prefix]
        figures += [_slopes(found, prefix, rows), _left(prefix, rows)]
    body = paragraphs(
        "The same number of injections, nearer or further apart. Where what is left just before "
        "the next injection rises from one to the next, knowledge accumulates; beyond the "
        "learnability threshold it does not."
    )
    return Section("spacing", "Spacing and the learnability threshold", "Spacing", body, figures)


def _slopes(found: Injection, prefix: str, rows: Sequence[Row]) -> Figure:
    slopes = [r for r in rows if r["kind"] == "slope"]
    row = found.scores.get(("injection.spacing_threshold", prefix, "")) or {}
    about = "Slope of what is left over the number of injections, with its interval; 0 is none. "
    threshold = None
    if row.get("value") is not None:
        threshold = data.log10(row["value"])
        about += (f"Threshold: {row['value']:.3g} steps ({row['ci_low']:.3g} to "
                  f"{row['ci_high']:.3g}).")  # fmt: skip
    else:
        about += f"Threshold: {row.get('reason') or 'not measured'}."
    id_ = f"spacing-slopes-{_slug(prefix)}"
    title = f"Accumulation over spacing, {prefix.removeprefix('spacing-')}"
    if not slopes:
        return Figure(id_, title, about, missing="no spacing has three injections")
    xs = [r["x"] for r in slopes]
    keys = [Key("accumulation", variable("loc"))]
    if threshold is not None:
        keys.append(Key("threshold", variable("muted"), kind="level"))
    return Figure(
        id_,
        title,
        about,
        spec=charts.slopes((min(xs) - 0.1, max(xs) + 0.1), xs, _ends(slopes), threshold),
        dataset="injection_spacing",
        where={"scope": [prefix], "kind": ["slope"]},
        columns=("spacing", "value", "ci_low", "ci_high"),
        legend=keys,
    )


def _slug(prefix: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in prefix)


def _left(prefix: str, rows: Sequence[Row]) -> Figure:
    curves = [r for r in rows if r["kind"] == "left"]
    id_ = f"spacing-left-{_slug(prefix)}"
    title = f"What is left before the next injection, {prefix.removeprefix('spacing-')}"
    about = "Nats above the state before the first injection, minus controls; a panel a spacing."
    if not curves:
        return Figure(id_, title, about, missing="no spacing has three injections")
    arms = {r["arm"]: r["spacing"] for r in curves}
    return Figure(
        id_,
        title,
        about,
        spec=charts.left(_ends(curves)),
        dataset="injection_spacing",
        where={"scope": [prefix], "kind": ["left"]},
        columns=("spacing", "k", "value"),
        panels=[Panel(f"every {n:,} steps", {"arm": [a]}) for a, n in arms.items()],
        narrow=True,
    )


def sweeps(view: View) -> Section | None:
    """Batch, learning-rate and frequency studies: one row a setting, and the slopes."""
    found = view.injection
    if found is None:
        return None
    body: list[Child] = []
    for study, columns in _SWEPT.items():
        rows = [_swept(found, where, columns) for where in _settings(found, study)]
        if rows:
            head = ["setting and start", *(BY_NAME[f"injection.{m}"].title for m in columns)]
            body.append(table(_SWEEP_TITLES[study], head, rows))
    slopes = [r for (m, _, _), r in found.scores.items() if m in _SLOPES]
    if not body:
        return None
    head = ["over", "what", "slope", "unit"]
    rows = [[r["scope"], BY_NAME[r["metric"]].title, estimate(r), r["unit"]] for r in slopes]
    if rows:
        body.append(table("Change when the setting grows tenfold", head, rows))
    about = h("p", "The same facts, injected with one setting changed.")
    return Section("sweeps", "Sweeps of settings", "Sweeps", join([about, *body]))


_SWEPT = {
    "batch": ("effectivity", "decay_constant", "threshold_tokens"),
    "lr": ("effectivity", "decay_constant", "threshold_tokens"),
    "frequency": ("effectivity", "gain"),
}
_SWEEP_TITLES = {
    "batch": "Batch size at a fixed injected share and fixed tokens",
    "lr": "Learning rate",
    "frequency": "Number of injections",
}
_SLOPES = {f"injection.{m}_slope" for m in ("effectivity", "decay", "threshold", "gain")}


def _settings(found: Injection, study: str) -> list[str]:
    """Scopes of a study's settings; in a frequency study its arms are the settings."""
    groups = found.study(study)
    if study != "frequency":
        return list(groups)
    return [f"{p}.{arm}" for p in groups for arm in found.groups[p][0].injected_arms]


def _swept(found: Injection, where: str, columns: Sequence[str]) -> list[Child]:
    rows = [found.scores.get((f"injection.{m}", where, "")) for m in columns]
    return [where, *(estimate(r) for r in rows)]


# ---- corruption ------------------------------------------------------------------------------

_OLD = (
    ("facts_nats", "Log-probability of real facts", "nats", ".3~g",
     "Mean summed log-probability of the answers of the real facts, with the interval over facts."),
    ("facts_share", "Real facts that are right", "share of facts", ".0%",
     "Share of the real facts whose every answer token is the model's first choice."),
    ("background", "Loss on background text", "nats per token", ".3~f",
     "Loss on background text that is never trained on; the band spans the seeds."),
)  # fmt: skip


def old_knowledge(view: View) -> Section | None:
    """What injection does to real facts and to the background loss."""
    found = view.injection
    if found is None or not found.main:
        return None
    rows = list(data.old_rows(found))
    figures = [_old(found, rows, *about) for about in _OLD]
    body = paragraphs(
        "New knowledge may be bought with old. Real facts are asked with the source template "
        "before, during and after injection. Ordinary training goes on meanwhile, so a change "
        "need not be due to the injected passages alone: the corruption metric subtracts what the "
        "same training takes without them, where the start has such a run."
    )
    return Section("corruption", "Corruption of old knowledge", "Corruption", body, figures)


def _old(
    found: Injection, rows: Sequence[Row], measure: str, title: str, unit: str, form: str,
    about: str,
) -> Figure:  # fmt: skip
    mine = [r for r in rows if r["measure"] == measure]
    id_ = f"corruption-{measure.replace('_', '-')}"
    if len({r["step"] for r in mine}) < 2:
        return Figure(id_, title, about, missing="it was not measured at two steps or more")
    starts = [s for s in found.main if any(r["scope"] == s for r in mine)]
    tones = [variable(_STARTS.get(s, "unstated")) for s in starts]
    ends = [r[k] for r in mine for k in ("ci_low", "ci_high")]
    room = 0.06 * ((max(ends) - min(ends)) or 1.0)
    keys = [Key(s, c) for s, c in zip(starts, tones, strict=True)]
    return Figure(
        id_,
        title,
        about,
        spec=charts.over_steps(unit, form, starts, tones, (min(ends) - room, max(ends) + room)),
        dataset="injection_old",
        where={"measure": [measure]},
        columns=("scope", "step", "value", "ci_low", "ci_high"),
        legend=keys,
    )


# ---- claims ----------------------------------------------------------------------------------


def claims(view: View) -> Section | None:
    """The fourteen claims of injection-2024 with verdicts and numbers."""
    if view.injection is None:
        return None
    about = h(
        "p",
        "What the literature says of injected facts, tested here. A claim is supported or not only "
        "where intervals say so; those that need other models or settings are tested by ",
        h("code", "factlife compare"),
        ".",
    )
    body = join([about, claims_table(view.injection.claims)])
    return Section("claims", "Claims about acquisition and forgetting", "Claims", body)


def claims_table(found: Sequence[Claim]) -> Html:
    """One row a claim: verdict and every comparison with its number."""
    rows: list[list[Child]] = [
        [
            join([f"{c.number}. {c.text}", h("small", c.note) if c.note else None]),
            h("td", h("span", c.verdict, class_="chip")),
            h("td", [_part(p) for p in c.parts] or "–"),
        ]
        for c in found
    ]
    return h("div", table("Claims", ["claim", "verdict", "numbers"], rows), class_="whole")


def _part(p: Part) -> Html:
    if p.row is None or p.row["value"] is None:
        return h("p", f"{p.what}: ", h("span", p.reason or "not measured", class_="missing"))
    unit = p.row["unit"]
    value = h("data", text.number(p.row["value"], unit), value=repr(p.row["value"]))
    span = text.interval(p.row["ci_low"], p.row["ci_high"], unit)
    return h("p", f"{p.what}: ", value, f" ({span}) {unit.removeprefix('share ')}, {p.verdict}")

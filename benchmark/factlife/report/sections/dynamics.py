"""Dynamics: how facts about people are learned from nothing, and lost to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from factlife.report import dynamics as data
from factlife.report import dynamics_charts as charts
from factlife.report import text
from factlife.report.charts import Scale
from factlife.report.dynamics import Study, study
from factlife.report.figures import Figure, Key, variable
from factlife.report.html import Child, Html, h, join
from factlife.report.sections.base import Section, paragraphs
from factlife.report.tables import estimate, table
from factlife.report.view import View

KNOWN, UNSEEN, OLD, TAUGHT = data.POPULATIONS.values()
TONES = {
    KNOWN: variable("loc"),
    UNSEEN: variable("name"),
    OLD: variable("stated"),
    TAUGHT: variable("unstated"),
}
LAYER_TONES = ("loc", "name", "stated", "unstated", "spare-1", "spare-2", "spare-3", "overall")
_ACCURACY = Scale("share of values")
_STEPS = Scale("optimiser steps", ",d", ",.0f")
_HEADROOM = 1.12  # of an axis over its largest value: room for the names of the moments


def _whole(view: View) -> Study | None:
    found = study(view)
    return found if found is not None and found.runs else None


def _phase_keys() -> list[Key]:
    names = [n[0].upper() + n[1:] for n in data.PHASES]
    return [
        # As pale as the shading itself.
        Key(name, f"color-mix(in srgb, {colour} 24%, var(--bg))", kind="box")
        for name, colour in zip(names, charts.PHASE_COLOURS, strict=True)
    ]


def _lines(names: Sequence[str], tones: Sequence[str]) -> list[Key]:
    return [Key(name, tone) for name, tone in zip(names, tones, strict=True)]


def _from_zero(scale: Scale, highest: float) -> Scale:
    """The scale from 0 to a little above the largest value."""
    return replace(scale, domain=(0.0, _HEADROOM * highest or 1.0))


def _curve(
    s: Study,
    id_: str,
    title: str,
    explanation: str,
    number: str,
    scale: Scale,
    names: Sequence[str],
    tones: Sequence[str],
    conditions: Sequence[str],
) -> Figure:
    """Curves of one number in one condition at a time, over its phases."""
    shown = [c for c in conditions if _has(s, c, number)]
    if s.axis is None or not shown:
        return Figure(id_, title, explanation, missing="no run from scratch measured it")
    baseline = number == "loss_nats"
    level = [Key("baseline: the values known, not whose", variable("ink"), kind="level")]
    return Figure(
        id_,
        title,
        explanation,
        spec=charts.learning(s.axis, scale, names, tones, baseline=baseline),
        dataset="dynamics_curves",
        where={"number": [number, data.ANY], "scope": shown[:1]},
        columns=("scope", "dynamics_run", "kind", "series", "step", "value"),
        legend=[*_lines(names, tones), *(level if baseline else []), *_phase_keys()],
        choices=[(c, s.labels[c]) for c in shown],
        choice_label="Runs shown",
    )


def _has(s: Study, condition: str, number: str) -> bool:
    rows = s.attention if number in data.SIGNATURES else s.evaluations
    names = {r["dynamics_run"] for r in s.conditions[condition]}
    return any(r["dynamics_run"] in names and r[number] is not None for r in rows)


# ---- learning --------------------------------------------------------------------------------


def learning(view: View) -> Section | None:
    """Loss and accuracy over steps, phases shaded, baseline drawn."""
    s = _whole(view)
    if s is None or s.axis is None:
        return None
    conditions = s.of_kind("scratch", "patched")
    names, tones = [KNOWN, UNSEEN], [TONES[KNOWN], TONES[UNSEEN]]
    level = max(r["baseline_nats"] for r in s.runs.values())
    nats = _from_zero(
        Scale("loss of a value (nats)", ".1f", ".3f"), max(1.5 * level, s.settled_loss())
    )
    figures = [
        _curve(
            s, "dynamics-loss", "Loss on a person's values",
            "A thin line a seed. Shading, and the moments t1, t2 and onset, are medians over "
            "seeds; onset is where the loss on people never seen rises above the baseline. What a "
            "model pays before it knows the values may lie above the chart.",
            "loss_nats", nats, names, tones, conditions,
        ),
        _curve(
            s, "dynamics-accuracy", "Accuracy on a person's values",
            "Share of values whose every token is the first choice, in sentences that the person "
            "was not trained on.",
            "accuracy", _ACCURACY, names, tones, conditions,
        ),
    ]  # fmt: skip
    body = join([
        paragraphs(
            "Models trained from nothing on biographies of made-up people. The loss first falls "
            "to the baseline, what a model pays that knows which values there are but not whose "
            "they are; there it may rest; below it, facts about single people are known."
        ),
        _runs(view, s, conditions),
    ])  # fmt: skip
    return Section("dynamics", "Learning facts from nothing", "Learning", body, figures)


RUN_COLUMNS = {
    "dynamics.formation": "baseline reached, t1",
    "dynamics.plateau_end": "plateau left, t2",
    "dynamics.plateau_end_twin": "known parts from unseen, t2′",
    "dynamics.hallucination_onset": "onset of hallucination",
    "dynamics.plateau_ratio": "t2 / t1",
    "dynamics.final_accuracy": "accuracy at the end",
}


def _runs(view: View, s: Study, conditions: Sequence[str]) -> Html:
    rows = [[s.labels[c], _baseline(s, c), *_cells(view, c, RUN_COLUMNS)] for c in conditions]
    head = ["runs", "baseline", *RUN_COLUMNS.values()]
    caption = "Moments of learning (steps; interval over seeds beneath)"
    return h("details", h("summary", "Every condition as a table"), table(caption, head, rows))


def _baseline(s: Study, condition: str) -> Html:
    known = [r["baseline_nats"] for r in s.conditions[condition]]
    return h("td", text.number(sum(known) / len(known), "nats"), " nats", class_="number")


def _cells(view: View, condition: str, metrics: Sequence[str] | dict[str, str]) -> list[Child]:
    return [estimate(view.score(m, condition, "")) for m in metrics]


# ---- people never seen -----------------------------------------------------------------------


def unseen_people(view: View) -> Section | None:
    """Confidence on people never seen, and whether it tells them apart."""
    s = _whole(view)
    if s is None or s.axis is None:
        return None
    conditions = s.of_kind("scratch", "patched")
    names, tones = [KNOWN, UNSEEN], [TONES[KNOWN], TONES[UNSEEN]]
    auroc = Scale("AUROC", ".2f", ".3f", (0.0, 1.0), 0.5, "cannot tell them apart")
    nats = _from_zero(Scale("entropy (nats)", ".1f", ".3f"), s.highest("entropy_nats"))
    figures = [
        _curve(
            s, "dynamics-confidence", "How sure the model is of its first choice",
            "Mean probability of the most probable token where a value begins.",
            "top_probability", replace(_ACCURACY, title="probability"), names, tones, conditions,
        ),
        _curve(
            s, "dynamics-entropy", "How undecided it is",
            "Mean entropy of the next token where a value begins.",
            "entropy_nats", nats, names, tones, conditions,
        ),
        _curve(
            s, "dynamics-auroc", "Does its confidence tell known people from others?",
            "Probability that the confidence on a known person is the higher one of two; at one "
            "half it tells nothing.",
            "auroc", auroc, [UNSEEN], [TONES[UNSEEN]], conditions,
        ),
    ]  # fmt: skip
    body = paragraphs(
        "About people who are in no text there is nothing to know. A model that is sure of "
        "their values makes them up, and its loss on them rises above the baseline."
    )
    return Section("dynamics-unseen", "People never seen", "Never seen", body, figures)


# ---- attention -------------------------------------------------------------------------------

_SIGNS = {
    "grouping": (
        "Grouping: from the last name to the other names",
        "Share of attention that the last token of a name pays to its other tokens.",
    ),
    "extraction": (
        "Extraction: from the value to the name",
        "Share of attention that goes to the name where a value is about to begin.",
    ),
    "sharpness": (
        "Sharpness of that attention",
        "Entropy over the largest possible one: 0 looks at one token, 1 at all alike.",
    ),
}


def attention(view: View) -> Section | None:
    """Attention signatures of each layer over steps."""
    s = study(view)
    if s is None or not (s.attention or s.subject):
        return None
    figures = _signatures(s)
    figures += _subject(view, s)
    body = paragraphs(
        "Before single facts can be stored, a name has to be gathered and looked up where its "
        "value is asked for. These numbers, means over heads and people, show when the layers "
        "begin to."
    )
    return Section("dynamics-attention", "The circuit in attention", "Attention", body, figures)


def patching(view: View) -> Section | None:
    """Runs whose attention comes from another run."""
    s = _whole(view)
    if s is None or not s.of_kind("patched"):
        return None
    figures = _estimated(view, s, "dynamics-patched", "Patched attention", _comparable(s))
    body = paragraphs(
        "In these runs every layer attends as a model did at a fixed step of another run. If "
        "patterns from after the plateau make it shorter, attention is what the plateau waits "
        "for."
    )
    return Section("dynamics-patching", "Attention from elsewhere", "Patching", body, figures)


def _signatures(s: Study) -> list[Figure]:
    if not s.attention:
        return []
    names, tones = _layers(s.n_layers)
    conditions = s.of_kind("scratch")
    return [
        _curve(
            s, f"dynamics-{number}", title, explanation, number,
            replace(_ACCURACY, title="share of attention" if number != "sharpness" else "share"),
            names, tones, conditions,
        )
        for number, (title, explanation) in _SIGNS.items()
    ]  # fmt: skip


def _layers(count: int) -> tuple[list[str], list[str]]:
    names = [data.layer_name(i) for i in range(count)]
    return names, [variable(LAYER_TONES[i % len(LAYER_TONES)]) for i in range(count)]


def _comparable(s: Study) -> list[str]:
    """Patched runs, after the plain runs of as many people."""
    patched = s.of_kind("patched")
    sizes = {s.conditions[c][0]["n_people"] for c in patched}
    plain = [c for c in _uniform(s) if s.conditions[c][0]["n_people"] in sizes]
    return [*plain, *patched]


def _uniform(s: Study) -> list[str]:
    return [c for c in s.of_kind("scratch") if s.conditions[c][0]["distribution"] == "uniform"]


def _subject(view: View, s: Study) -> list[Figure]:
    if not s.subject or not view.measured:
        return []
    names, tones = _layers(max(r["layer"] for r in s.subject) + 1)
    titles = {
        "mass": ("Attention to the subject of a fact", "share of attention"),
        "sharpness": ("Sharpness of the attention to facts", "share"),
    }
    return [
        Figure(
            f"dynamics-subject-{number}",
            title,
            "Checkpoints of the given series, where an answer is about to begin; mean over heads "
            "and facts.",
            spec=charts.subject(view.axis, replace(_ACCURACY, title=unit), names, tones),
            dataset="dynamics_subject",
            where={"number": [number]},
            columns=("series", "number", "value"),
            legend=_lines(names, tones),
        )
        for number, (title, unit) in titles.items()
    ]


# ---- size and distribution -------------------------------------------------------------------


def _estimated(
    view: View, s: Study, id_: str, title: str, conditions: Sequence[str]
) -> list[Figure]:
    """End of the plateau and accuracy of some conditions, with intervals."""
    sizes = sorted({s.conditions[c][0]["n_people"] for c in conditions})
    field = "short" if len(sizes) == 1 else "label"
    among = f"{sizes[0]:,} people" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,} people"
    explanation = f"Mean over seeds with its interval; {among}, all counted alike."
    scales = {
        "dynamics.plateau_end": ("steps to leave the plateau", _STEPS),
        "dynamics.final_accuracy": ("accuracy at the end", _ACCURACY),
    }
    return [
        _estimate_figure(
            view,
            Figure(f"{id_}-{metric.rpartition('.')[2]}", f"{title}: {what}", explanation),
            {c: (s.short_labels if field == "short" else s.labels)[c] for c in conditions},
            metric,
            scale,
            field,
        )
        for metric, (what, scale) in scales.items()
    ]


def _estimate_figure(
    view: View, bare: Figure, labels: Mapping[str, str], metric: str, scale: Scale, field: str
) -> Figure:
    rows = {c: view.score(metric, c, "") for c in labels}
    found = {c: r for c, r in rows.items() if r is not None and r["value"] is not None}
    if not found:
        why = dict.fromkeys(r["reason"] or "no reason given" for r in rows.values() if r)
        return replace(bare, missing="; ".join(why) or "no run measured it")
    if scale is _STEPS:
        ends = [r[k] for r in found.values() for k in ("value", "ci_high") if r[k] is not None]
        scale = _from_zero(scale, max(ends))
    return replace(
        bare,
        spec=charts.estimates(scale, field, [labels[c] for c in found]),
        dataset="dynamics_estimates",
        where={"number": [metric], "scope": list(found)},
        columns=("label", "value", "ci_low", "ci_high", "n", "unit"),
        notes=[
            f"Not shown: {labels[c]} ({r['reason'] if r else 'not measured'})."
            for c, r in rows.items()
            if c not in found
        ],
    )


def size(view: View) -> Section | None:
    """The plateau against the number of people."""
    s = _whole(view)
    if s is None:
        return None
    sizes = sorted({s.conditions[c][0]["n_people"] for c in _uniform(s)})
    if len(sizes) < 2:
        return None
    names = list(data.SIZE_TIMES.values())
    tones = [variable("muted"), variable("loc")]
    missing = [
        f"Not shown: {r['dynamics_run']} ({_why(s, r['dynamics_run'], 't2')})."
        for c in _uniform(s)
        for r in s.conditions[c]
        if s.value(r["dynamics_run"], "t2") is None
    ]
    figure = Figure(
        "dynamics-size",
        "When the baseline is reached and left, by the number of people",
        "A point a seed; lines join the means. Published for a larger model: "
        "t2 = 0.43 · N^0.81 from 4 thousand to 256 thousand people.",
        spec=charts.over_size(sizes, names, tones),
        dataset="dynamics_size",
        where={"series": names},
        columns=("dynamics_run", "n_people", "series", "value"),
        legend=_lines(names, tones),
        notes=[_exponent(view), *missing],
    )
    body = paragraphs(
        "How long the model rests at the baseline, in populations of different sizes."
    )
    return Section("dynamics-size", "Plateau and population", "Population", body, [figure])


def _why(s: Study, run: str, quantity: str) -> str:
    row = s.summary.get((run, quantity))
    return str(row["reason"] or "no reason given") if row else "not measured"


def _exponent(view: View) -> str:
    row = view.score("dynamics.plateau_exponent", "overall", "")
    if row is None or row["value"] is None:
        why = row["reason"] if row else "not measured"
        return f"No exponent of the growth of t2 ({why})."
    span = ""
    if row["ci_low"] is not None:
        span = f" ({view.interval_name} {text.interval(row['ci_low'], row['ci_high'], '')})"
    return f"Exponent of the growth of t2 here: {text.number(row['value'], '')}{span}."


def distribution(view: View) -> Section | None:
    """Distributions over people, at equal numbers of people and steps."""
    s = _whole(view)
    if s is None:
        return None
    others = [c for c in s.of_kind("scratch") if c not in _uniform(s)]
    if not others:
        return None
    sizes = {s.conditions[c][0]["n_people"] for c in others}
    plain = [c for c in _uniform(s) if s.conditions[c][0]["n_people"] in sizes]
    figures = _estimated(
        view, s, "dynamics-distribution", "Distribution over people", [*plain, *others]
    )
    body = paragraphs(
        "The same number of people, met in different proportions or orders. If some come more "
        "often or first, what the model learns on them may serve the rest."
    )
    return Section("dynamics-distribution", "Who is met how often", "Distribution", body, figures)

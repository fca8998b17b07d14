"""Accuracy: over training, by subset, by relation, by way of asking, by wording."""

from __future__ import annotations

import math

from factlife.report import charts, text
from factlife.report.charts import SHARE, Scale
from factlife.report.figures import Figure, Key
from factlife.report.html import Html, h, join
from factlife.report.sections.base import (
    SCORE_COLUMNS,
    WHOLE,
    Section,
    colours,
    group_keys,
    measured_scopes,
    paragraphs,
    reference_key,
    scope_panels,
    score_figure,
    with_chance,
)
from factlife.report.sections.headline import card
from factlife.report.view import OVERALL, View
from factlife.scores import BY_NAME

CORRECTED = "recall.candidate_accuracy_corrected"
_ABOUT_SUBSETS = {
    "stated unstated": (
        "The training text tells the stated facts and never the unstated ones. Only the stated "
        "facts can have been learned: what the model gets right among the unstated ones is "
        "guessing, a shortcut, or a leak. An accuracy over both together hides the difference."
    ),
}


def subsets(view: View) -> Section | None:
    """Sets of facts that the series itself names, apart and with the level of guessing."""
    names = measured_scopes(view, [WHOLE], view.scopes.subsets)
    if not names:
        return None
    about = _ABOUT_SUBSETS.get(
        " ".join(sorted(names)), "The series names these sets of facts; each is measured apart."
    )
    cards = [_subset_card(view, name) for name in names]
    body = join([h("p", about), _chance_sentence(view), h("div", cards, class_="cards wide")])
    title = " and ".join(map(text.spaced, names)).capitalize()
    return Section("subsets", f"{title} facts", title, body, _subset_figures(view, names))


def _chance_sentence(view: View) -> Html:
    chance = view.chance()
    if chance is None:
        return h("p", "The level of guessing is not known: no candidates were measured.")
    level = text.number(chance, "share of facts")
    return h(
        "p",
        "Guessing among the answers of each relation would be right for ",
        h("strong", level),
        " of all facts.",
    )


def _subset_card(view: View, name: str) -> Html:
    parts = {s: s.removeprefix(f"{name}.") for s in view.scopes.crossed if s.startswith(f"{name}.")}
    made = card(view, BY_NAME[WHOLE], view.final(WHOLE, name), parts)
    level = view.chance(name)
    guess = f", guessing {text.number(level, 'share of facts')}" if level is not None else ""
    head = h("p", f"{text.spaced(name).capitalize()} facts{guess}", class_="over")
    tone = colours(view, [name])[0]
    return h("div", head, made, class_="subset", style=f"--swatch:{tone}")


def _subset_figures(view: View, names: list[str]) -> list[Figure]:
    both = " and ".join(names)
    return [
        _subset_figure(
            view, "subsets-accuracy", f"Accuracy of {both} facts {view.when}",
            "Whole-answer accuracy with its interval, apart for each set, then within each group.",
            WHOLE, names, with_chance(view, SHARE),
        ),
        _subset_figure(
            view, "subsets-candidates", f"Candidate accuracy above chance of {both} facts",
            "Given only the answers of the relation to choose from, does the right one win? 0 is "
            "guessing, 100 % is always right.",
            CORRECTED, names, _above_chance(view),
        ),
    ]  # fmt: skip


def _above_chance(view: View) -> Scale:
    """One scale for all charts of chance-corrected accuracy: down to the lowest interval."""
    scopes = set(view.scopes.wide)
    lows = [r["ci_low"] for (m, s, _), r in view.scores.items()
            if m == CORRECTED and s in scopes and r["ci_low"] is not None]  # fmt: skip
    low = math.floor(10 * min(lows, default=0.0)) / 10
    return Scale(
        "share of facts above chance", domain=(min(low, 0.0), 1.0), reference=0.0,
        reference_label="guessing",
    )  # fmt: skip


def _subset_figure(
    view: View, id_: str, title: str, explanation: str, metric: str, names: list[str], scale: Scale
) -> Figure:
    groups = [("all of them", names)]
    for g in view.scopes.groups:
        inside = [f"{n}.{g}" for n in names if f"{n}.{g}" in view.scopes.crossed]
        groups.append((g, inside))
    groups = [(name, found) for name, inside in groups
              if (found := measured_scopes(view, [metric], inside))]  # fmt: skip
    if not groups:
        return Figure(id_, title, explanation, missing=view.why_missing(metric))
    scopes = [s for _, inside in groups for s in inside]
    tones = colours(view, scopes)
    several = len(view.measured) > 1
    if several:
        spec = charts.curves(view.axis, scale, scopes, tones, [], height=220)
    else:
        spec = charts.intervals(scale, "scope", scopes, scopes, tones)
    own = [Key(n, c) for n, c in zip(names, colours(view, names), strict=True)]
    return Figure(
        id_,
        title,
        explanation,
        spec=spec,
        where={"metric": [metric], "scope": scopes},
        columns=SCORE_COLUMNS,
        legend=[*own, *reference_key(scale)],
        panels=scope_panels(view, metric, groups) if several else (),
    )


def over_training(view: View) -> Section | None:
    """Whole-answer accuracy of all facts, LOC and NAME, and the gap between the two."""
    if not view.recalled:
        return None
    body = paragraphs(
        "LOC relations ask for a place, a language or a sport; NAME relations ask for a person. "
        "Bands are intervals from resampling the facts within relations."
    )
    main = score_figure(
        view,
        "accuracy",
        f"Whole-answer accuracy {view.when}",
        BY_NAME[WHOLE].meaning,
        [WHOLE],
        [OVERALL, *view.scopes.groups],
        with_chance(view, SHARE),
    )
    points = Scale("LOC minus NAME, share of facts", "+.0%", "+.1%", None, 0.0, "no gap")
    gap = score_figure(
        view,
        "gap",
        "The gap between LOC and NAME",
        BY_NAME["recall.loc_name_gap"].meaning,
        ["recall.loc_name_gap"],
        [OVERALL],
        points,
    )
    return Section("accuracy", f"Accuracy {view.when}", "Accuracy", body, [main, gap])


def relations(view: View) -> Section | None:
    """One small chart a relation."""
    names = measured_scopes(view, [WHOLE], list(view.scopes.relations))
    if not names:
        return None
    tones = colours(view, names)
    if len(view.measured) > 1:
        spec = charts.small_curves(view.axis, SHARE, names, tones)
        about = (f"One chart a relation, 0 to 100 % of its facts against {view.axis.title}; the "
                 "number beside the name is the accuracy at the last checkpoint.")  # fmt: skip
        panels = scope_panels(view, WHOLE, [(text.spaced(r), [r]) for r in names])
    else:
        spec, panels = charts.intervals(SHARE, "scope", names, names, tones), []
        about = "Share of each relation's facts with its interval."
    figure = Figure(
        "relations-accuracy",
        "Whole-answer accuracy of each relation",
        about,
        spec=spec,
        where={"metric": [WHOLE], "scope": names},
        columns=SCORE_COLUMNS,
        legend=group_keys(view),
        panels=panels,
        narrow=True,
    )
    body = paragraphs("An average can hide that some relations are learned and others are not.")
    return Section("relations", "Each relation", "Relations", body, [figure])


def ways_of_asking(view: View) -> Section | None:
    """First token, generation, candidates, log-probability."""
    if not view.recalled:
        return None
    every = [*view.scopes.wide, *view.scopes.relations]
    nats = Scale("nats", ".1f", ".2f", None)
    figures = [
        score_figure(
            view, "generation", "Said against scored: generation and whole answer",
            "If the curves part, the model ranks the answer first but does not say it, or the "
            "other way round.",
            [WHOLE, "recall.generation_accuracy"], every, SHARE, choose=True,
        ),
        score_figure(
            view, "candidates", "The right answer among the relation's answers, above chance",
            BY_NAME[CORRECTED].meaning,
            [CORRECTED], [OVERALL, *view.scopes.groups], _above_chance(view),
        ),
        score_figure(
            view, "first-token", "First answer token among the top 1 and top 10",
            "How often the answer begins right; it depends on how the tokenizer cuts the answer, "
            "so it does not compare models.",
            ["recall.top1_accuracy", "recall.top10_accuracy"], every, SHARE, choose=True,
        ),
        score_figure(
            view, "logprob", "Log-probability of the answer",
            "Sum over the answer's tokens, and mean per token, averaged over facts; it can move "
            "before any accuracy does.",
            ["recall.logprob_sum", "recall.logprob_per_token"], every, nats, choose=True,
        ),
    ]  # fmt: skip
    body = paragraphs(
        "The same facts asked in other ways. Colour says which facts, line style which number."
    )
    return Section("asking", "Other ways of asking", "Ways of asking", body, figures)


def wording(view: View) -> Section | None:
    """Prompt sensitivity: several templates for one relation."""
    spread = "recall.template_spread"
    if not view.recalled:
        return None
    if (why := view.why_missing(spread)) is not None:
        body = h("p", f"Not measured: {why}.", class_="missing")
        return Section("wording", "Sensitivity to wording", "Wording", body)
    every = [*view.scopes.wide, *view.scopes.relations]
    figures = [
        score_figure(
            view, "templates-over-training", "Accuracy with one wording and with all",
            "The source template alone against the mean over all templates, and the share of facts "
            "on which all templates agree.",
            [WHOLE, "recall.template_mean_accuracy", "recall.template_agreement"], every, SHARE,
            choose=True,
        ),
        score_figure(
            view, "template-spread", "Best minus worst template",
            BY_NAME[spread].meaning, [spread], [OVERALL, *view.scopes.groups],
            Scale("difference of shares", ".0%", ".1%", None),
        ),
        _template_dots(view),
    ]  # fmt: skip
    body = paragraphs(
        "A fact that is known in one wording only is hardly known: how far does wording carry the "
        "numbers?"
    )
    return Section("wording", "Sensitivity to wording", "Wording", body, figures)


def _template_dots(view: View) -> Figure:
    names = list(view.scopes.relations)
    return Figure(
        "templates",
        "Every template at the last checkpoint",
        "Whole-answer accuracy with each template of a relation; the filled diamond is the source "
        "template, rings are the extra ones.",
        spec=charts.templates(names, colours(view, names)),
        dataset="templates",
        columns=("relation", "template", "role", "value", "ci_low", "ci_high", "n"),
        legend=group_keys(view),
    )

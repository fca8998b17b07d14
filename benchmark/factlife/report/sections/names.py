"""Hallucination: what the model makes of names that nobody bears."""

from __future__ import annotations

from factlife.report.charts import SHARE, Scale
from factlife.report.html import h
from factlife.report.sections.base import Section, paragraphs, score_figure
from factlife.report.view import OVERALL, View
from factlife.scores import BY_NAME

_X, _J = "hallucination.excess_loss", "hallucination.name_information"


def made_up_names(view: View) -> Section | None:
    """X and J, known against made-up names, confident answers."""
    if not view.recalled:
        return None
    if (why := view.why_missing(_X)) is not None:
        body = h("p", f"Not measured: {why}.", class_="missing")
        return Section("names", "Hallucination on made-up names", "Made-up names", body)
    every = [OVERALL, *view.scopes.relations]
    nats = Scale("nats", ".2f", ".3f", None)
    auroc = Scale("AUROC", ".2f", ".3f", (0.0, 1.0), 0.5, "cannot tell them apart")
    share = Scale("share, or probability", SHARE.format, SHARE.precise)
    figures = [
        score_figure(
            view, "excess-loss", "X: loss from committing to an answer for a made-up name",
            BY_NAME[_X].meaning, [_X, f"{_X}_prior_corrected"], every, nats, choose=True,
        ),
        score_figure(
            view, "name-information", "J: how much a made-up name moves the answer",
            BY_NAME[_J].meaning, [_J, f"{_J}_prior_corrected"], every, nats, choose=True,
        ),
        score_figure(
            view, "auroc", "Is the model surer about real names than about made-up ones?",
            BY_NAME["hallucination.auroc"].meaning, ["hallucination.auroc"],
            [OVERALL, *view.scopes.subsets], auroc,
        ),
        score_figure(
            view, "confidence", "How sure the model is about made-up names",
            "Share of made-up names with one candidate above half, mean probability of the best "
            "candidate, and entropy over candidates (1: no idea).",
            ["hallucination.confident_share", "hallucination.top_probability",
             "hallucination.normalised_entropy"], every, share, choose=True,
        ),
    ]  # fmt: skip
    body = paragraphs(
        "Subjects that do not exist have no right answer. A model that stays with the average of "
        "the relation's answers gives 0 for X and J; an untrained model often is near 0 too: read "
        "them beside accuracy."
    )
    return Section("names", "Hallucination on made-up names", "Made-up names", body, figures)

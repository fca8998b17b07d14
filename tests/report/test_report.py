"""report.html: every number from the tables, every hole with its reason, nothing loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pages import Element, check_page, data_of
from tests.report.synthetic import Design, build_run

from factlife.errors import SubmissionError, UsageError
from factlife.report import write_report
from factlife.report.datasets import learned_at, pack
from factlife.report.figures import colour_of
from factlife.report.text import number
from factlife.scores import METRICS
from factlife.store import RunStore, write_json

EVIL = "</script><script>alert(1)</script>"
EVIL_NAMES = (EVIL, '"onmouseover="alert(1)', "<img src=x onerror=alert(1)>", "var(--loc)")
RECALL = [m for m in METRICS if not m.name.startswith("circuits.")]  # all that these runs have
MakeRun = Callable[[Design], RunStore]


def page_of(run: RunStore) -> Element:
    return check_page(write_report(run).read_text("utf-8"))


@pytest.fixture(scope="module")
def page(full_run: RunStore) -> Element:
    return check_page((full_run.root / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def charts(page: Element) -> dict[str, Any]:
    found: dict[str, Any] = data_of(page, "charts")
    return found


def rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page's script makes of a packed table, without joins."""

    def plain(c: Any) -> list[Any]:
        if isinstance(c, list):
            return c
        return [None if i is None else c["names"][i] for i in c["codes"]]

    columns = [plain(c) for c in table.values()]
    return [dict(zip(table, values, strict=True)) for values in zip(*columns, strict=True)]


# ---- numbers ---------------------------------------------------------------------------------


def test_headline_cards_show_what_result_json_says(full_run: RunStore, page: Element) -> None:
    metrics = json.loads((full_run.root / "result.json").read_text())["metrics"]
    cards = page.one("section", id="headline").all("article")
    assert [c.attributes["data-metric"] for c in cards] == [m.name for m in RECALL if m.headline]
    for card in cards:
        wanted = metrics.get(card.attributes["data-metric"])
        if wanted is None:  # of a track that this run has not
            assert "this profile does not measure it" in card.text
            continue
        shown = card.all("p", class_="value")[0].one("data")
        assert float(shown.attributes["value"]) == wanted["value"]
        assert shown.text == " ".join(number(wanted["value"], wanted["unit"]).split())
        assert f"n = {wanted['n']}" in card.text
        assert wanted["unit"] in card.text
        for line in card.all("li"):
            scope = line.children[0].text.split()[-1]  # type: ignore[union-attr]
            part = metrics[f"{wanted['metric']}@{scope}"]
            values = [float(d.attributes["value"]) for d in line.all("data")]
            assert values == ([] if part["value"] is None else [part["value"]])


def test_subsets_stand_apart_with_the_level_of_guessing(full_run: RunStore, page: Element) -> None:
    metrics = json.loads((full_run.root / "result.json").read_text())["metrics"]
    section = page.one("section", id="subsets")
    shown = [float(c.all("data")[0].attributes["value"]) for c in section.all("article")]
    wanted = [metrics[f"recall.whole_answer_accuracy@{s}"]["value"] for s in ("stated", "unstated")]
    assert shown == wanted
    # Mean over facts of one in the relation's distinct answers, counted in the data by hand:
    # (14/13 + 20/14 + 19/19 + 17/13 + 14/12 + 12/4 + 17/16 + 13/13 + 17/17 + 17/15) / 160 = 0.0823
    assert "8.2 % of all facts" in section.text
    assert "Stated facts, guessing" in section.text


def test_every_metric_is_in_the_table_with_its_meaning(page: Element) -> None:
    text = page.one("section", id="numbers").text
    for metric in RECALL:
        assert metric.title in text
        assert metric.meaning in text


def test_chart_data_are_the_scores(full_run: RunStore, charts: dict[str, Any]) -> None:
    names = [r["metric"] for r in rows(charts["tables"]["metrics"])]
    revisions = [r["revision"] for r in rows(charts["tables"]["checkpoints"])]
    embedded = {
        (names[r["metric"]], r["scope"], revisions[r["checkpoint"]]): r["value"]
        for r in rows(charts["tables"]["scores"])
    }
    scores = full_run.read("scores").to_pylist()
    wanted = {
        (s["metric"], s["scope"], s["revision"]): pytest.approx(s["value"], rel=1e-5)
        for s in scores
        if s["revision"] and s["value"] is not None
    }
    assert embedded == wanted


def test_knowledge_map_holds_every_fact_and_checkpoint(
    full_run: RunStore, charts: dict[str, Any]
) -> None:
    tables = {name: rows(t) for name, t in charts["tables"].items()}
    facts = [f["fact"] for f in tables["facts"]]
    assert len(facts) == 160
    known = {
        (facts[r["fact"]], r["checkpoint"]) for r in tables["knowledge"] if r["state"] == "known"
    }
    place = {c["revision"]: i for i, c in enumerate(tables["checkpoints"])}
    right = {
        (r["fact_id"], place[r["revision"]])
        for r in full_run.read("recall").to_pylist()
        if r["template_role"] == "source" and r["whole_answer"]
    }
    assert known == right
    sets = {tables["facts"][r["fact"]]["set"] for r in tables["knowledge"] if r["state"] == "known"}
    assert sets == {"stated", "unstated"}
    for r in tables["knowledge"]:
        own = tables["facts"][r["fact"]]["set"]
        assert r["shown"] == (own if r["state"] == "known" else "not known")
    lines = [(f["relation"], f["line"]) for f in tables["facts"]]
    assert [line for _, line in lines] == list(range(160))
    assert len({r for r, _ in lines}) == 10


@pytest.mark.parametrize(
    ("known", "place"),
    [([0, 0, 1, 1], 2), ([1, 1], 0), ([1, 0, 1], 2), ([0, 1, 0], 3), ([0], 1), ([1], 0)],
)
def test_learned_at_is_the_checkpoint_since_which_a_fact_is_known(
    known: list[int], place: int
) -> None:
    assert learned_at(np.array(known)) == place


def test_packed_columns_keep_text_null_and_numbers() -> None:
    table = [{"a": "x", "b": 1 / 3, "c": None}, {"a": None, "b": 2, "c": None}]
    packed = pack(table, ("a", "b", "c"))
    coded = {"names": ["x"], "codes": [0, None]}
    assert packed == {"a": coded, "b": [0.333333, 2], "c": [None, None]}


# ---- figures ---------------------------------------------------------------------------------


def joined(charts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows with their joins, as charts.js makes them."""
    found = rows(charts["tables"][name])
    for column, other in charts["joins"].items():
        if found and column in found[0] and isinstance(charts["tables"][name][column], list):
            lookup = joined(charts, other)
            found = [{**r, **lookup[r[column]]} for r in found]
    return found


def test_every_figure_has_rows_a_title_an_explanation_and_known_columns(
    page: Element, charts: dict[str, Any]
) -> None:
    assert len(charts["figures"]) > 12
    for name, figure in charts["figures"].items():
        table = joined(charts, figure["dataset"])
        for where in [p["where"] for p in figure["panels"]] or [{}]:
            chosen = {**figure["where"], **where}
            kept = [r for r in table if all(r[c] in allowed for c, allowed in chosen.items())]
            assert kept, f"{name} draws nothing for {where}"
            assert set(figure["columns"]) <= set(kept[0]), name
        drawn = page.one("figure", id=f"figure-{name}")
        assert drawn.one("h3").text
        assert len(drawn.one("figcaption").one("p").text.split()) > 5
        assert len(drawn.all("div", class_="chart")) == max(1, len(figure["panels"]))


def test_no_name_enters_an_expression_of_a_chart(make_run: MakeRun) -> None:
    names = [f"{i}{EVIL_NAMES[i % 4]}" for i in range(3)]
    run = make_run(Design(tokens=(0, 2000, 100_000), names=names))
    specs = json.dumps([f["spec"] for f in data_of(page_of(run), "charts")["figures"].values()])
    assert "alert(1)" not in specs


def test_colours_are_fixed_for_each_set_of_facts() -> None:
    relations, subsets = {"city": "LOC", "ceo": "NAME"}, ("stated", "fresh")
    scopes = ["overall", "LOC", "NAME", "city", "ceo", "stated", "stated.LOC", "fresh", "fresh.LOC"]
    seen = {s: colour_of(s, relations, subsets) for s in scopes}
    assert seen["city"] == seen["LOC"] == "var(--loc)"
    assert seen["ceo"] == seen["NAME"] == "var(--name)"
    assert seen["stated.LOC"] == seen["stated"] == "var(--stated)"
    assert seen["fresh.LOC"] == seen["fresh"] == "var(--spare-1)"
    assert seen["overall"] == "var(--overall)"


# ---- unusual runs ----------------------------------------------------------------------------


def test_one_checkpoint(make_run: MakeRun) -> None:
    page = page_of(make_run(Design(tokens=(3_000_000,))))
    assert "Whole-answer accuracy at the only checkpoint" in page.text
    assert "No chart: only one checkpoint was measured" in page.text


def test_one_checkpoint_at_step_0(make_run: MakeRun) -> None:
    page = page_of(make_run(Design(tokens=(0,))))
    card = page.one("section", id="headline").one("article", data_metric="recall.emergence50")
    assert "not measured" in card.text
    assert "final accuracy is not above chance" in card.text


def test_unknown_tokens_and_steps(make_run: MakeRun) -> None:
    names = [f"{'very-long-' * 12}{i}" for i in range(4)]
    page = page_of(make_run(Design(tokens=[None] * 4, steps=[None] * 4, names=names)))
    assert "tokens are unknown for some revisions" in page.one("section", id="emergence").text
    assert "place in the series" in page.one("section", id="relations").text
    assert names[3] in page.text


def test_profile_without_candidates_generation_or_templates(make_run: MakeRun) -> None:
    design = Design(profile="timecourse-2025", candidates=False, generation=False, templates=1,
                    subsets=False, manifest={"chance": None})  # fmt: skip
    page = page_of(make_run(design))
    assert "Not measured: this profile does not measure it" in page.one("section", id="names").text
    assert "only one template was measured" in page.one("section", id="wording").text
    assert "Generation accuracy of all facts (no measured facts)" in page.text
    assert not page.all("section", id="subsets")
    charts = data_of(page, "charts")
    assert "chance" not in page.one("figure", id="figure-accuracy").text
    assert charts["tables"]["facts"]["subject"]["names"]  # taken from the fact ids


def test_forty_checkpoints_stay_below_four_megabytes(make_run: MakeRun) -> None:
    run = make_run(Design(tokens=[10_000 * (i + 1) for i in range(40)], facts_per_relation=2))
    page_of(run)
    assert (run.root / "report.html").stat().st_size < 4_000_000


def test_unmeasured_revisions_flags_and_warnings_are_shown(make_run: MakeRun) -> None:
    design = Design(tokens=(0, 2000, 100_000), flags=("merged shards",), warnings=("mind it",))
    run = make_run(design)
    row = run.read("checkpoints").to_pylist()[1]
    row |= {"revision": "copy", "position": 3, "step": 999, "reason": "duplicate_of step0",
            "duplicate_of": "step0", "weights_sha256": [], "tensor_hash": None}  # fmt: skip
    run.write_part("checkpoints", [row], {"stage": "main", "step": 999})
    page = page_of(run)
    text = page.one("section", id="checkpoints").text
    assert "4 checkpoints, 1 of them not measured" in text
    assert "no: duplicate_of step0" in text
    assert "same weights as step0" in text
    assert "merged shards" in text
    assert "mind it" in page.one("section", id="warnings").text
    assert "1 warning" in page.one("header").text


def test_provenance_holds_hashes_versions_and_the_command(
    full_run: RunStore, page: Element
) -> None:
    result = json.loads((full_run.root / "result.json").read_text())
    section = page.one("section", id="provenance")
    for wanted in (
        result["protocol"]["hash"], result["data"][0]["fingerprint"], result["env"]["git_sha"],
        "with local changes", "torch 2.13.0", "intervals 0",
    ):  # fmt: skip
        assert wanted in section.text
    commands = [p.one("code").children for p in section.all("pre", class_="command")]
    assert commands == [["factlife run reference-1m"]]
    demo = page.one("header").one("span", class_="badge")
    assert demo.text == "demo"


def test_dropped_rows_keep_their_reason(make_run: MakeRun) -> None:
    run = make_run(Design(tokens=(2000, 100_000)))
    at = {"stage": "main", "step": 50}
    rows_ = run.read("recall").to_pylist()
    rows_ = [r for r in rows_ if r["step"] == 50]
    gone = {"rank", "logprob_sum_nats", "n_tokens", "whole_answer", "generation", "exact_match"}
    rows_[0] |= {**dict.fromkeys(gone), "reason": "longer than the context"}
    run.write_part("recall", rows_, at)
    assert "not measured: longer than the context" in page_of(run).text


# ---- trust -----------------------------------------------------------------------------------


def test_names_stay_text_wherever_they_stand(make_run: MakeRun) -> None:
    design = Design(
        tokens=(0, 2000, 100_000), series=EVIL, names=EVIL_NAMES[:3], flags=[EVIL],
        warnings=EVIL_NAMES, subset_names=(EVIL_NAMES[2], EVIL_NAMES[0]),
        manifest={"command": f"factlife run {EVIL}", "note": EVIL},
    )  # fmt: skip
    page = page_of(make_run(design))
    assert page.one("h1").text.startswith(EVIL)
    assert EVIL in page.one("section", id="checkpoints").text
    scripts = [s for s in page.all("script") if "type" not in s.attributes]
    assert len(scripts) == 4
    revisions = [r["revision"] for r in rows(data_of(page, "charts")["tables"]["checkpoints"])]
    assert revisions == list(EVIL_NAMES[:3])


def test_generations_are_escaped(page: Element) -> None:
    assert "the <b>place</b> of" in page.one("section", id="facts").text
    assert not page.all("b")


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    design = Design(tokens=(0, 2000, 50_000), facts_per_relation=3)
    a, b = (write_report(build_run(tmp_path / n, design)).read_bytes() for n in "ab")
    assert a == b
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_without_a_result_is_told_to_score_first(tmp_path: Path) -> None:
    with RunStore.writer(tmp_path / "run", {"identity": {}}) as run:
        pass
    with pytest.raises(UsageError, match="factlife score"):
        write_report(run)


def test_a_broken_result_is_refused_with_its_place(make_run: MakeRun) -> None:
    run = make_run(Design(tokens=(1000,)))
    result = json.loads((run.root / "result.json").read_text())
    result["metrics"]["recall.area"]["n"] = "many"
    write_json(run.root / "result.json", result)
    with pytest.raises(SubmissionError, match="/metrics/recall.area/n"):
        write_report(run)


WITHOUT_PANDAS = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "torch"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from factlife.report import write_report
from factlife.hub import build_board
from factlife.store import RunStore
root = Path(sys.argv[1])
write_report(RunStore.existing(root))
build_board([root], root / "leaderboard")
"""


def test_neither_pandas_nor_torch_is_needed(make_run: MakeRun) -> None:
    root = make_run(Design(tokens=(0, 2000))).root
    subprocess.run([sys.executable, "-c", WITHOUT_PANDAS, str(root)], check=True)
    assert (root / "leaderboard" / "index.html").is_file()

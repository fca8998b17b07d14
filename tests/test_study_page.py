"""The docs page of studies: from made-up tables, and from those that are committed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests import study_page
from tests.report.dynamics_run import Plan, build_study

from factlife.dynamics.claims import STATEMENTS, scratch_claims
from factlife.dynamics.metrics import summary_rows
from factlife.dynamics.phases import detect
from factlife.runner.validate import validate
from factlife.store import RunStore


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("docs")
    run = build_study(root / "run", Plan(never=(4096,)))
    study_page.pack(run.root, root / "studies")
    study_page.write(root / "studies", root / "page.md")
    return root / "studies"


def test_the_page_holds_every_claim_and_every_picture_that_it_names(studies: Path) -> None:
    page = (studies.parent / "page.md").read_text("utf-8")
    assert all(f"**{c}** {words}" in page for c, words in STATEMENTS.items())
    named = re.findall(r"\]\((studies/[^)]+\.svg)\)", page)
    assert len(named) == len(set(named)) >= 12
    for name in named:
        picture = (studies.parent / name).read_text("utf-8")
        assert picture.startswith("<svg") and "var(--" not in picture and "NaN" not in picture
    assert {Path(n).name for n in named} == {p.name for p in studies.glob("*/*.svg")}
    assert "not reached in 3 of 3 seeds" in page  # the size that never leaves its plateau
    assert page == study_page.page(studies)


def test_a_packed_study_is_a_valid_run_folder_with_the_same_rows(studies: Path) -> None:
    (folder,) = study_page.packed(studies)
    assert validate(folder)["protocol"]["name"] == folder.name
    there, here = RunStore(studies.parent / "run"), RunStore(folder)
    for table in (*study_page.RAW, "dynamics_summary", "dynamics_claims"):
        before, after = (sorted(map(str, s.read(table).to_pylist())) for s in (there, here))
        assert before == after and before
        assert len(here.parts(table)) == 1
    assert " --out" not in here.manifest()["command"]


@pytest.mark.parametrize("folder", study_page.packed(), ids=lambda p: p.name)
def test_what_a_committed_study_says_follows_from_its_evaluations(folder: Path) -> None:
    store = RunStore(folder)
    tables = {name: store.read(name) for name in study_page.RAW}
    runs = tables["dynamics_runs"].to_pylist()
    summary = summary_rows(tables)
    kept = {(r["dynamics_run"], r["quantity"]): r["value"] for r in
            store.read("dynamics_summary").to_pylist()}  # fmt: skip
    assert {(r["dynamics_run"], r["quantity"]): r["value"] for r in summary} == kept
    level = store.manifest()["protocol"]["params"]["intervals"]["level"]
    claims = {(r["claim"], r["number"]): r for r in store.read("dynamics_claims").to_pylist()}
    for row in scratch_claims(runs, summary, level):
        found = claims[row["claim"], row["number"]]
        assert (row["verdict"], row.get("value")) == (found["verdict"], found["value"])
    # t2 of one run, from its rows alone.
    run = next(r for r in runs if r["kind"] == "scratch")
    rows = sorted(tables["biography_eval"].to_pylist(), key=lambda r: r["step"])
    loss = {p: [r["loss_nats"] for r in rows
                if (r["dynamics_run"], r["population"]) == (run["dynamics_run"], p)]
            for p in ("known", "held_out")}  # fmt: skip
    steps = sorted({r["step"] for r in rows if r["dynamics_run"] == run["dynamics_run"]})
    phases = detect(steps, loss["known"], loss["held_out"], run["baseline_nats"])
    assert phases.t2.step == kept[run["dynamics_run"], "t2"]

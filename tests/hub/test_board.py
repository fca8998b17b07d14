"""The leaderboard page: one row a result, ranks only where they may be, nothing loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.hub.results import HEADLINES, make_result, metric_row
from tests.pages import Element, check_page, data_of, parse

from factlife.errors import SubmissionError, UsageError
from factlife.hub import build_board, collect
from factlife.hub.collect import Entry
from factlife.hub.ranks import Rank
from factlife.hub.ranks import ranks as places
from factlife.hub.series_page import series_data
from factlife.hub.site import received
from factlife.report.identity import command
from factlife.scores import BY_NAME, METRICS
from factlife.store import write_json

Folder = Callable[..., Path]
ACCURACY, EMERGENCE = "recall.whole_answer_accuracy", "recall.emergence50"
EVIL = "</script><script>alert(1)</script>\"onmouseover='alert(1)'"


def board(*paths: Path) -> Element:
    return check_page(build_board(paths, paths[0].parent / "out").read_text("utf-8"))


def ranks(metric: str, *results: dict[str, Any]) -> list[Rank | None]:
    entries = [Entry(r) for r in results]
    found = places(BY_NAME[metric], entries)
    return [found.get(id(e)) for e in entries]


def records(page_folder: Path) -> list[dict[str, Any]]:
    """The rows that can be downloaded."""
    found: list[dict[str, Any]] = json.loads((page_folder / "leaderboard.json").read_text("utf-8"))
    return found


def with_accuracy(
    series: str, low: float, value: float, high: float, **more: Any
) -> dict[str, Any]:
    return make_result(series, metrics={ACCURACY: (low, value, high)}, **more)


# ---- the page --------------------------------------------------------------------------------


def test_one_row_a_result_in_the_section_of_its_profile(folder: Folder) -> None:
    page = board(
        folder(
            make_result("b", "demo"), make_result("a", "demo"), make_result("c", "reference"),
            make_result("d"), make_result("e", "timecourse-2025"),
        )
    )  # fmt: skip
    found = {s.attributes["id"]: [n.text for n in s.all("a", class_="name")]
             for s in page.all("section", class_="rows")}  # fmt: skip
    assert found == {"standard": ["d"], "reference": ["c"], "demo": ["a", "b"], "other": ["e"]}
    assert list(found) == ["standard", "reference", "demo", "other"]


def test_a_row_shows_model_coverage_protocol_and_every_headline(folder: Folder) -> None:
    result = make_result("pythia-160m")
    row = board(folder(result)).one("tr", class_="row")
    for wanted in ("pythia-160m", "GPTNeoXForCausalLM", "162M parameters", "0 to 300B tokens",
                   "3 checkpoints", "standard version 1",
                   result["protocol"]["hash"][:12]):  # fmt: skip
        assert wanted in row.text
    cells = {c.attributes["data-metric"]: c for c in row.all("td", class_="number")}
    assert list(cells) == list(HEADLINES)
    for name, (low, value, high) in HEADLINES.items():
        assert float(cells[name].one("data").attributes["value"]) == value
        assert result["metrics"][name]["ci_low"] == low <= value <= high
    assert "51.0 % 44.0 to 58.0 %" in cells[ACCURACY].text
    assert "800M 400M to 800M" in cells[EMERGENCE].text


def test_the_page_of_a_series_holds_provenance_and_the_command(folder: Folder) -> None:
    result = make_result("pythia-160m")
    (entry,) = collect([folder(result)])
    made = parse(series_data(entry)["provenance"])
    for wanted in (result["protocol"]["hash"], result["data"][0]["fingerprint"], "0" * 40,
                   "torch 2.13.0", "bootstrap 0", "NVIDIA H200"):  # fmt: skip
        assert wanted in made.text
    command = made.one("pre").one("code").children
    assert command == ["factlife run EleutherAI/pythia-160m --profile standard"]


def test_the_command_of_a_run_folder_is_the_one_in_its_manifest(folder: Folder) -> None:
    root = folder(make_result("a"), make_result("b"), make_result("c"))
    write_json(root / "0" / "manifest.json", {"command": "factlife demo --seed 3"})
    write_json(root / "1" / "manifest.json", {"command": ["not", "text"]})
    (root / "2" / "manifest.json").write_text("{")
    commands = [e.command for e in collect([root])]
    assert commands[0] == "factlife demo --seed 3"
    assert commands[1:] == [f"factlife run EleutherAI/{s} --profile standard" for s in "bc"]


def test_a_number_that_is_missing_shows_why(folder: Folder) -> None:
    row = board(folder(make_result(metrics={EMERGENCE: None}))).one("tr", class_="row")
    assert "not measured final accuracy is not above chance (0.079)" in row.text


def test_stated_and_unstated_facts_stand_apart(folder: Folder) -> None:
    result = make_result("reference-1m", "demo")
    for scope, value in (("stated", 0.975), ("unstated", 0.053)):
        result["metrics"][f"{ACCURACY}@{scope}"] = metric_row(ACCURACY, (0, value, 1), scope)
    row = board(folder(result)).one("tr", class_="row")
    assert "stated 97.5 % unstated 5.3 %" in row.text


def test_flags_warn_of_what_a_row_rests_on(folder: Folder) -> None:
    result = make_result(
        integrity={"duplicates": ["step2"], "warnings": ["a", "b"], "exclusions": {"recall: x": 1}}
    )
    result["env"]["dirty"] = True
    result["series"][2]["tokens"] = None
    flags = [f.text for f in board(folder(result)).all("span", class_="warn")]
    assert flags == ["2 warnings", "1 duplicate revision", "1 dropped row",
                     "source had local changes", "tokens not known"]  # fmt: skip


def test_heads_are_buttons_that_a_keyboard_reaches(folder: Folder) -> None:
    heads = board(folder(make_result())).one("table", class_="board").all("thead")[0].all("th")
    assert len(heads) == 4 + sum(m.headline for m in METRICS)
    for i, head in enumerate(heads):
        assert head.attributes["aria-sort"] == "none"
        assert head.attributes["scope"] == "col"
        assert head.one("button").attributes["data-column"] == str(i)
    assert "higher is better" in heads[4].text
    assert "lower is better" in heads[6].text


def test_the_rows_can_be_downloaded_in_three_forms(folder: Folder, tmp_path: Path) -> None:
    out = build_board([folder(make_result("=pythia"))], tmp_path / "out").parent
    (row,) = records(out)
    assert row["series"] == "=pythia"
    assert row["last_tokens"] == 300_000_000_000
    assert list(row["metrics"]) == list(HEADLINES)
    assert row["metrics"][ACCURACY]["value"] == HEADLINES[ACCURACY][1]
    assert row["metrics"][ACCURACY]["rank"] is None
    head, line, _ = (out / "leaderboard.csv").read_text("utf-8").split("\n")
    assert head.startswith("id,series,repo,architecture,parameters")
    assert line.split(",")[1] == "'=pythia"  # no spreadsheet takes it for a formula
    tidy = pq.read_table(out / "leaderboard.parquet").to_pylist()
    assert {t["metric"]: t["value"] for t in tidy} == {k: v[1] for k, v in HEADLINES.items()}
    assert {t["id"] for t in tidy} == {row["id"]}


# ---- ranks -----------------------------------------------------------------------------------


def test_a_rank_is_within_one_metric_and_says_what_intervals_allow() -> None:
    found = ranks(
        ACCURACY,
        with_accuracy("low", 0.10, 0.20, 0.30),
        with_accuracy("mid", 0.25, 0.35, 0.45),  # overlaps both neighbours
        with_accuracy("top", 0.40, 0.50, 0.60),
    )
    # low: only top lies entirely above it. mid: nobody above, nobody below. top: low lies below.
    assert found == [Rank(3, 2, 3, 3), Rank(2, 1, 3, 3), Rank(1, 1, 2, 3)]
    assert str(found[0]) == "rank 3 (2 to 3) of 3"


def test_lower_is_better_turns_the_order_round() -> None:
    fast = make_result("fast", metrics={EMERGENCE: (1e6, 2e6, 2e6)})
    slow = make_result("slow", metrics={EMERGENCE: (4e6, 8e6, 8e6)})
    assert [str(r) for r in ranks(EMERGENCE, slow, fast)] == ["rank 2 of 2", "rank 1 of 2"]


def test_equal_values_share_a_place() -> None:
    found = ranks(ACCURACY, make_result("a"), make_result("b"), with_accuracy("c", 0.1, 0.2, 0.3))
    assert [r.place for r in found if r] == [1, 1, 3]


def test_a_result_alone_or_without_a_value_has_no_rank() -> None:
    assert ranks(ACCURACY, make_result()) == [None]
    missing = make_result("b", metrics={ACCURACY: None})
    assert ranks(ACCURACY, make_result("a"), missing) == [None, None]


def test_results_of_two_protocol_hashes_are_never_compared() -> None:
    assert ranks(ACCURACY, make_result("a"), make_result("b", version=2)) == [None, None]


def test_only_the_ranked_profile_without_badge_is_ranked() -> None:
    fine = [make_result("a"), make_result("b")]
    assert all(ranks(ACCURACY, *fine))
    for other in (
        make_result("demo", "demo"),
        make_result("demo that says it is ranked", "demo", ranked=True),
        make_result("badge", badge="preview"),
        make_result("own profile", "mine", ranked=True),
    ):
        assert ranks(ACCURACY, *fine, other)[2] is None
        assert [r and r.of for r in ranks(ACCURACY, *fine, other)[:2]] == [2, 2]


def test_a_hash_that_is_not_that_of_its_parameters_is_flagged_and_not_ranked() -> None:
    forged = make_result("forged", ranked=False, badge="")
    forged["protocol"] |= {"ranked": True, "hash": make_result()["protocol"]["hash"]}
    assert ranks(ACCURACY, make_result("a"), make_result("b"), forged)[2] is None
    assert "protocol hash does not match its parameters" in Entry(forged).flags
    assert Entry(forged).badge == "not ranked"
    pair = [make_result("c"), make_result("d")]
    for result in pair:
        result["protocol"]["hash"] = "0" * 64
    assert ranks(ACCURACY, *pair) == [None, None]


def test_a_metric_in_another_unit_is_not_shown_as_the_registry_s() -> None:
    result = make_result()
    result["metrics"][ACCURACY]["unit"] = "per cent"
    assert Entry(result).metric(ACCURACY) is None


def test_demo_rows_are_marked_and_never_ranked(folder: Folder, tmp_path: Path) -> None:
    page = board(folder(*(make_result(s, "demo", ranked=True, badge="demo") for s in "ab")))
    assert "Demo only." in page.one("header").text
    rows = page.one("section", id="demo")
    assert [b.text for b in rows.all("span", class_="badge")] == ["demo", "demo"]
    assert not page.all("span", class_="rank")
    rows = records(tmp_path / "out")
    assert {m["rank"] for row in rows for m in row["metrics"].values()} == {None}


def test_the_page_shows_ranks_of_ranked_results_only(folder: Folder) -> None:
    page = board(
        folder(make_result("a"), with_accuracy("b", 0.7, 0.8, 0.9), make_result("c", "demo"))
    )
    shown = {s.attributes["id"]: len(s.all("span", class_="rank")) for s in page.all("section")}
    assert shown == {"standard": 2 * len(HEADLINES), "demo": 0, "published": 0, "meanings": 0}
    rows = {
        r.one("a", class_="name").text: r.attributes["class"] for r in page.all("tr", class_="row")
    }
    assert rows == {"a": "row ranked", "b": "row ranked", "c": "row unranked"}
    assert "Demo only." not in page.text


# ---- collecting ------------------------------------------------------------------------------


def test_a_file_a_folder_and_a_copy_make_one_row_each(folder: Folder, tmp_path: Path) -> None:
    root = folder(make_result("a"), make_result("b"))
    write_json(tmp_path / "elsewhere" / "result.json", make_result("a"))
    found = collect([root, root / "0" / "result.json", tmp_path / "elsewhere"])
    assert [e.series for e in found] == ["a", "b"]


def test_paths_do_not_change_the_page(folder: Folder, tmp_path: Path) -> None:
    root = folder(make_result("b"), make_result("a"))
    one = build_board([root / "0", root / "1"], tmp_path / "one").read_bytes()
    two = build_board([root / "1" / "result.json", root], tmp_path / "two").read_bytes()
    assert one == two
    assert str(tmp_path).encode() not in one


def test_a_broken_result_is_named_with_file_place_and_remedy(folder: Folder) -> None:
    result = make_result()
    result["metrics"][ACCURACY]["n"] = "many"
    with pytest.raises(
        SubmissionError, match=rf"0/result.json: /metrics/{ACCURACY}/n: 'many'.*; write"
    ):
        build_board([folder(result)], Path("out"))


def test_nothing_found_and_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no result.json under"):
        build_board([tmp_path], tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        build_board([tmp_path / "nowhere"], tmp_path)
    assert not (tmp_path / "index.html").exists()


# ---- trust -----------------------------------------------------------------------------------


def test_names_stay_text_wherever_they_stand(folder: Folder) -> None:
    result = make_result(EVIL, submitter=EVIL)
    result["model"] |= {"repo": EVIL, "architecture": EVIL}
    result["env"] |= {"device": EVIL, "packages": {EVIL: EVIL}}
    result["integrity"] |= {"warnings": [EVIL]}
    result["protocol"] |= {"badge": EVIL}
    result["series"][0]["revision"] = EVIL
    page = board(folder(result))
    assert "".join(page.one("a", class_="name").text.split()) == "".join(EVIL.split())
    assert page.one("tr", class_="row").one("span", class_="badge").children == [EVIL]
    assert data_of(page, "board")["series"][0]["name"] == EVIL
    assert len([s for s in page.all("script") if "type" not in s.attributes]) == 4
    data = series_data(Entry(result))
    assert data["name"] == EVIL
    assert [e.tag for e in parse(data["about"] + data["provenance"]).all("script")] == []
    assert "<" not in received(EVIL, data)


def test_the_space_header_is_that_of_a_static_site() -> None:
    text = Path(__file__).parents[2].joinpath("leaderboard", "README.md").read_text("utf-8")
    header = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines())
    assert header["sdk"] == "static"
    assert header["app_file"] == "index.html"
    assert len(header["short_description"]) <= 60


@pytest.mark.parametrize("name", ["../../x", "..", "/etc/passwd", "a/../../b", "é" * 180])
def test_a_name_never_leads_out_of_the_folder(folder: Folder, tmp_path: Path, name: str) -> None:
    out = build_board([folder(make_result(name))], tmp_path / "deep" / "out").parent
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "results"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    (script,) = (out / "series").iterdir()
    assert re.fullmatch(r"[a-z0-9-]{1,40}-[0-9a-f]{10}\.js", script.name)


def test_files_of_series_that_left_the_board_are_removed(folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_board([folder(make_result("a"), make_result("b"))], out)
    (out / "series" / "notes.txt").write_text("mine")
    build_board([tmp_path / "results" / "0"], out)
    assert sorted(p.name.rpartition("-")[0] or p.name for p in (out / "series").iterdir()) == [
        "a",
        "notes.txt",
    ]


def test_the_command_of_a_demo_trains_its_series_again() -> None:
    def said(series: str, profile: str) -> str:
        model = {"repo": series}
        return command({"series_name": series, "model": model, "protocol": {"name": profile}})

    assert said("factlife-reference-gpt2", "demo") == "factlife demo --arch gpt2"
    assert said("org/model", "demo") == "factlife run org/model --profile demo"


def test_the_command_of_a_reference_row_trains_its_series_first() -> None:
    name = "factlife-reference-gpt_neox-6x192"
    run = f"factlife run {name} --profile reference"
    result = make_result(name, "reference", command=run, schema_version=2)
    result["env"]["seeds"]["training"] = 3
    train = f"factlife series train {name} --arch gpt_neox --depth 6 --width 192 --seed 3"
    assert Entry(result).command == f"{train} && {run}"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("factlife-reference-gpt2", "factlife run x --profile reference"),
        ("factlife-reference-gpt2-6x192; rm -rf .", "factlife run x"),
        ("factlife-reference-gpt2-6x192", "factlife demo"),
        ("factlife-reference-gpt2-6x192", "factlife run --profile reference x"),
        ("factlife-reference-gpt2-6x192", "factlife run 'x"),
        ("factlife-reference-gpt2-6x192", "factlife run"),
    ],
)
def test_no_training_command_is_made_up_for_others(name: str, command: str) -> None:
    result = make_result(name, "reference", command=command, schema_version=2)
    assert Entry(result).command == command


def test_letters_that_only_look_like_others_are_flagged() -> None:
    flag = "name with letters outside ASCII"
    assert flag in Entry(make_result("\u043erg/model")).flags  # a Cyrillic o
    assert flag not in Entry(make_result("org/model")).flags


def test_emergence_shows_where_locations_and_names_stand(folder: Folder) -> None:
    result = make_result()
    for scope, value in (("LOC", 2e8), ("NAME", 9e8)):
        row = metric_row("recall.emergence50", (value, value, value), scope)
        result["metrics"][f"recall.emergence50@{scope}"] = row
    cell = board(folder(result)).one("td", data_metric="recall.emergence50")
    assert "LOC 200M" in cell.text and "NAME 900M" in cell.text


def test_a_number_of_one_seed_shows_no_interval(folder: Folder) -> None:
    result = make_result()
    name = next(k for k, m in result["metrics"].items() if m["value"] and BY_NAME[k].headline)
    result["metrics"][name]["interval_method"] = "none: one seed"
    cell = board(folder(result)).one("td", data_metric=name)
    assert "no interval: one seed" in cell.text
    assert not cell.all("svg")

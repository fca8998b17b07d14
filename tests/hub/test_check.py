"""A results repo and changes of it: what CI lets in and what it does not; `validate` of folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.hub.results import make_result
from tests.hub.runs import make_run
from tests.write_docs import ROOT
from typer.testing import CliRunner

from factlife.cli import app
from factlife.errors import IntegrityError, SubmissionError, UsageError
from factlife.hub import protocol
from factlife.hub.check import check_results
from factlife.hub.collect import Entry
from factlife.hub.submission import (
    LARGEST,
    Submission,
    folder_of,
    model_name,
    prepare,
    safe_name,
    series_id,
)
from factlife.result import upgraded
from factlife.runner.score import score_run
from factlife.runner.validate import examine
from factlife.store import sha256_json, write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="module")
def made(run: Path) -> Submission:
    return prepare(run, "ann")


@pytest.fixture
def repo(tmp_path: Path, made: Submission) -> Path:
    """A results repo with one row, of ann."""
    return lay(tmp_path / "repo", {"README.md": b"# results\n", **made.paths})


@pytest.fixture
def base(tmp_path: Path, repo: Path) -> Path:
    """The repo as it was before."""
    return Path(shutil.copytree(repo, tmp_path / "base"))


def lay(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def found(folder: Path, base: Path | None = None, author: str | None = None) -> list[str]:
    return [str(p) for p in check_results(folder, base, author).problems]


def rewritten(made: Submission, **changes: Any) -> dict[str, bytes]:
    """The submission with another result.json, where that one belongs."""
    result = {**made.result, **changes}
    files = {**made.files, "result.json": json.dumps(result).encode()}
    return {f"{folder_of(result)}/{n}": d for n, d in files.items()}


# ---- a repo ----------------------------------------------------------------------------------


def test_a_good_repo_has_no_problem(repo: Path, made: Submission) -> None:
    checked = check_results(repo)
    assert checked.problems == () and checked.results == (made.folder,)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.py", "is no file of a result"),
        (".github/workflows/x.yml", "is no file of a result"),
        ("results/x.html", "is no file of a result"),
        ("results/a/b/c/result.json.bak", "is no file of a result"),
        ("results/a/b/c/d/result.json", "is no file of a result"),
        ("results/a/b/c/scores.parquet", "there is no result.json beside it"),
        ("results/a/b/c/notes.pkl", "is no file of a result"),
    ],
)
def test_what_is_no_data_is_refused(repo: Path, name: str, words: str) -> None:
    lay(repo, {name: b"x"})
    (problem,) = found(repo)
    assert problem.startswith(f"{name}: /: {words}; ")


def test_links_are_refused_and_not_followed(repo: Path, made: Submission) -> None:
    (repo / "results" / "elsewhere").symlink_to("/etc")
    (repo / made.folder / "transitions.parquet").symlink_to(repo / "README.md")
    assert sum("is a link or no plain file" in p for p in found(repo)) == 2
    assert len(found(repo)) == 2


def test_a_file_that_is_too_large_is_refused(repo: Path, made: Submission) -> None:
    with (repo / made.folder / "scores.parquet").open("ab") as f:
        f.truncate(LARGEST["scores.parquet"] + 1)
    assert any("16,777,217 bytes are more than 16,777,216" in p for p in found(repo))


def test_the_same_weights_and_protocol_are_one_row(repo: Path, made: Submission) -> None:
    model = {**made.result["model"], "repo": "org/renamed"}
    lay(repo, rewritten(made, model=model, submitter="bob"))
    (problem,) = found(repo)
    assert problem.startswith("results/org__tiny/") and "repeats results/org__renamed" in problem


def test_a_row_at_the_wrong_place_is_told_where_it_belongs(repo: Path, made: Submission) -> None:
    (repo / "results" / "org__tiny").rename(repo / "results" / "org__better")
    (problem,) = found(repo)
    assert f"belongs into {made.folder}; move the folder there" in problem


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("result.json", b"{", "not readable as JSON"),
        ("result.json", b"\xff", "not readable as JSON"),
        ("result.json", b"[]", "is not of type 'object'"),
        ("scores.parquet", b"PAR1", "is not the table whose sha256 result.json states"),
        ("transitions.parquet", b"PAR1", "result.json names no table transitions; remove it"),
    ],
)
def test_a_damaged_file_is_named(
    repo: Path, made: Submission, name: str, change: bytes, words: str
) -> None:
    (repo / made.folder / name).write_bytes(change)
    (problem,) = found(repo)
    assert problem.startswith(f"{made.folder}/{name}: /: ") and words in problem


def test_a_missing_table_is_named(repo: Path, made: Submission) -> None:
    (repo / made.folder / "scores.parquet").unlink()
    (problem,) = found(repo)
    assert "/tables/scores: has no scores.parquet" in problem and "add the file" in problem


def test_a_row_without_submitter_is_told_how(tmp_path: Path, made: Submission) -> None:
    (problem,) = found(lay(tmp_path, rewritten(made, submitter=None)))
    assert "/submitter: is null; hand it in with `factlife submit`" in problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "magic.score"}, "is no metric of factlife"),
        ({"unit": "nats"}, "unit 'nats' is not the registry's, 'share of facts'"),
        ({"direction": "lower"}, "direction 'lower' is not the registry's, 'higher'"),
    ],
)
def test_metrics_are_those_of_the_registry(
    tmp_path: Path, made: Submission, change: dict[str, str], words: str
) -> None:
    name = "recall.whole_answer_accuracy"
    row = {**made.result["metrics"][name], **change}
    metrics = {k: m for k, m in made.result["metrics"].items() if k != name}
    metrics[row["metric"]] = row
    problems = found(lay(tmp_path / "r", rewritten(made, metrics=metrics)))
    assert any(f"/metrics/{row['metric']}: {words}" in p for p in problems)


def test_a_submitter_that_is_no_account_is_refused(tmp_path: Path, made: Submission) -> None:
    (problem,) = found(lay(tmp_path, rewritten(made, submitter="<script>alert(1)</script>")))
    assert "/submitter: is no name of a Hub account" in problem


# ---- a change --------------------------------------------------------------------------------


def test_a_new_row_of_its_author_is_let_in(repo: Path, tmp_path: Path) -> None:
    before = lay(tmp_path / "before", {"README.md": b"# results\n"})
    assert found(repo, before, "ann") == []
    assert found(repo, before) == []


def test_a_new_row_in_anothers_name_is_not(repo: Path, tmp_path: Path) -> None:
    before = lay(tmp_path / "before", {"README.md": b"# results\n"})
    (problem,) = found(repo, before, "eve")
    assert "/submitter: says 'ann', the change is 'eve''s; hand in your own runs" in problem


def test_anothers_row_is_neither_removed_nor_changed(
    repo: Path, base: Path, made: Submission
) -> None:
    shutil.rmtree(repo / "results")
    assert [p.split(";")[0] for p in found(repo, base, "bob")] == [
        f"{made.folder}/{n}: /: was removed, a file of ann's result"
        for n in ("result.json", "scores.parquet")
    ]
    lay(repo, rewritten(made, command="factlife run org/tiny"))
    (problem,) = found(repo, base, "bob")
    assert f"{made.folder}/result.json: /: was changed, a file of ann's result" in problem


def test_a_change_cannot_claim_the_row_it_changes(repo: Path, base: Path, made: Submission) -> None:
    lay(repo, rewritten(made, submitter="eve"))
    assert any("was changed, a file of ann's result" in p for p in found(repo, base, "eve"))


def test_ones_own_row_may_change_but_not_go(repo: Path, base: Path, made: Submission) -> None:
    lay(repo, rewritten(made, command="factlife run org/tiny"))
    assert found(repo, base, "ann") == []
    shutil.rmtree(repo / "results")
    assert all("was removed" in p for p in found(repo, base, "ann"))
    assert len(found(repo, base, "ann")) == 2


def test_files_beside_the_results_stay_as_they_are(repo: Path, base: Path) -> None:
    lay(repo, {"README.md": b"# mine\n", "LICENSE": b"mine"})
    assert [p.split(";")[0] for p in found(repo, base, "ann")] == [
        "LICENSE: /: is no part of a result", "README.md: /: was changed",
    ]  # fmt: skip


def test_the_command_prints_a_line_a_problem_and_exits_3(repo: Path) -> None:
    lay(repo, {"run.py": b"", "x.sh": b""})
    done = CliRunner().invoke(app, ["leaderboard", "check", str(repo)])
    lines = done.stderr.splitlines()
    assert done.exit_code == 3 and [x.split(":")[0] for x in lines[:2]] == ["run.py", "x.sh"]
    assert len(lines) == 3 and "2 problems in 1 results" in lines[2]
    as_json = CliRunner().invoke(app, ["leaderboard", "check", str(repo), "--json"])
    assert as_json.exit_code == 3
    assert [p["file"] for p in json.loads(as_json.stdout)["problems"]] == ["run.py", "x.sh"]
    (repo / "run.py").unlink(), (repo / "x.sh").unlink()
    done = CliRunner().invoke(app, ["leaderboard", "check", str(repo)])
    assert done.exit_code == 0 and done.stdout == f"{repo}: valid (1 results)\n"


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "<script>alert(1)</script>", "..", ".git", "a b", "é",
                                  "", "x" * 200, "a\nb", "a/b", "CON\x00"])  # fmt: skip
def test_a_name_becomes_one_harmless_segment(name: str) -> None:
    safe = safe_name(name)
    assert safe.replace("-", "").isalnum() and safe.isascii() and 1 <= len(safe) <= 100
    assert safe != safe_name(name + "?")


def test_names_of_the_hub_are_kept() -> None:
    model = {"repo": "EleutherAI/pythia-2.8b"}
    assert model_name({"model": model}) == "EleutherAI__pythia-2.8b"
    assert model_name({"model": {"repo": "my-series"}}) == "local__my-series"
    # ../../x: the part before the last slash is ../.., the rest is x.
    assert model_name({"model": {"repo": "../../x"}}).endswith("__x")
    assert ".." not in model_name({"model": {"repo": "../../x"}})


def test_a_series_is_its_weights_whatever_it_is_called() -> None:
    one = make_result("a")
    other = make_result("b")
    assert series_id(one) == series_id(other)
    other["series"][0]["weights_sha256"] = ["0" * 64]
    assert series_id(one) != series_id(other)


# ---- protocols -------------------------------------------------------------------------------


def shipped(name: str) -> dict[str, Any]:
    from factlife.config import load_profile

    profile = load_profile(name)
    result = make_result(profile="demo")
    params = profile.params()
    data = {d["name"]: d["fingerprint"] for d in result["data"]}
    result["protocol"] = {
        **{k: params[k] for k in ("name", "version", "ranked", "badge")},
        "params": params, "hash": sha256_json({"params": params, "data": data}),
    }  # fmt: skip
    return result


@pytest.mark.parametrize("name", ["standard", "reference", "demo", "timecourse-2025"])
def test_a_shipped_profile_is_itself(name: str) -> None:
    result = shipped(name)
    assert list(protocol.protocol_problems(result, "f")) == []
    assert list(protocol.profile_problems(result, "f")) == []
    assert protocol.is_shipped(result["protocol"])


def test_some_tracks_of_a_shipped_profile_pass_but_are_not_it() -> None:
    result = shipped("reference")
    result["protocol"]["params"]["tracks"] = ["recall"]
    assert list(protocol.profile_problems(result, "f")) == []
    assert not protocol.is_shipped(result["protocol"])


@pytest.mark.parametrize(
    ("key", "value", "pointer"),
    [
        ("intervals", {}, "/protocol/params/intervals"),
        ("more", 1, "/protocol/params/more"),
        ("ranked", True, "/protocol/params/ranked"),
        ("tracks", ["recall", "magic"], "/protocol/params/tracks"),
    ],
)
def test_a_changed_profile_does_not_bear_a_shipped_name(key: str, value: Any, pointer: str) -> None:
    result = shipped("reference")
    result["protocol"]["params"][key] = value
    (problem,) = protocol.profile_problems(result, "f")
    assert problem.pointer == pointer and "as it is shipped" in problem.what


def test_a_version_that_was_never_shipped_is_refused() -> None:
    result = shipped("reference")
    result["protocol"]["version"] = 99
    (problem,) = protocol.profile_problems(result, "f")
    assert problem.pointer == "/protocol/version"


def test_a_profile_of_ones_own_passes_but_cannot_be_ranked() -> None:
    result = make_result(profile="mine")
    assert list(protocol.profile_problems(result, "f")) == []
    result = make_result(profile="mine", ranked=True)
    (problem,) = protocol.profile_problems(result, "f")
    assert problem.pointer == "/protocol/ranked"


def test_a_changed_standard_has_no_rank() -> None:
    # `make_result`'s standard is the shipped one: a rank. With fewer tracks and a hash that holds,
    # it is another protocol under the same name: none.
    result = make_result()
    assert Entry(result).ranked
    params = {**result["protocol"]["params"], "tracks": ["recall"]}
    data = {d["name"]: d["fingerprint"] for d in result["data"]}
    result["protocol"] |= {"params": params, "hash": sha256_json({"params": params, "data": data})}
    assert Entry(result).hash_holds and not Entry(result).ranked


@pytest.mark.parametrize("key", ["name", "version", "ranked", "badge"])
def test_a_protocol_says_what_its_parameters_say(key: str) -> None:
    result = shipped("reference")
    result["protocol"][key] = {"name": "x", "version": 7, "ranked": True, "badge": "x"}[key]
    (problem,) = protocol.protocol_problems(result, "f")
    assert problem.pointer == f"/protocol/{key}" and "its parameters say" in problem.what


# ---- validate --------------------------------------------------------------------------------


def test_scoring_again_gives_the_same_result_byte_for_byte(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    first = {p: (run / p).read_bytes() for p in ("result.json", "tables/scores/part.parquet")}
    for name in first:
        (copy / name).unlink()
    score_run(copy)
    assert {name: (copy / name).read_bytes() for name in first} == first


def test_validate_knows_what_it_looks_at(
    run: Path, repo: Path, made: Submission, tmp_path: Path
) -> None:
    kinds = {
        "run": run, "results repo": repo, "result": repo / made.folder, "results": tmp_path / "r",
        "data set": ROOT / "datasets" / "fact-probes",
    }  # fmt: skip
    write_json(tmp_path / "r" / "a" / "result.json", dict(made.result, tables={
        k: v for k, v in made.result["tables"].items() if k != "scores"}))  # fmt: skip
    for kind, path in kinds.items():
        if kind == "data set":
            pytest.importorskip("great_expectations")
        assert examine(path).kind == kind and examine(path).problems == ()
    assert examine(repo / made.folder / "result.json").kind == "result"


def test_the_results_of_the_leaderboard_are_valid() -> None:
    assert examine(ROOT / "leaderboard" / "results").problems == ()


def test_validate_names_every_problem_of_a_folder(tmp_path: Path) -> None:
    for i, result in enumerate((make_result("a"), {}, make_result("c"))):
        write_json(tmp_path / str(i) / "result.json", result)
    (tmp_path / "2" / "scores.parquet").write_bytes(b"PAR1")
    done = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert done.exit_code == 3
    files = {line.split(":")[0] for line in done.stderr.splitlines()[:-1]}
    assert files == {str(tmp_path / "1" / "result.json"), str(tmp_path / "2" / "scores.parquet"),
                     str(tmp_path / "2" / "result.json")}  # fmt: skip


def test_validate_has_an_exit_code_for_each_kind_of_fault(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        examine(tmp_path / "nowhere")
    with pytest.raises(SubmissionError, match="it has no result.json"):
        examine(tmp_path)
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    part = copy / "tables" / "scores" / "part.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="checksum is wrong"):
        examine(copy)


def test_a_data_set_that_breaks_its_suite_is_an_integrity_error(tmp_path: Path) -> None:
    pytest.importorskip("great_expectations")
    import pyarrow.parquet as pq

    folder = Path(shutil.copytree(ROOT / "datasets" / "fact-probes", tmp_path / "fact-probes"))
    table = pq.read_table(folder / "facts.parquet")
    pq.write_table(table.slice(1), folder / "facts.parquet")
    done = CliRunner().invoke(app, ["validate", str(folder)])
    assert done.exit_code == 4 and "fact-probes / " in done.stderr
    assert "`factlife datasets build fact-probes` mends it" in done.stderr


def test_an_old_result_is_read_as_a_new_one() -> None:
    old = make_result()
    assert upgraded(old)["command"] is None and upgraded(old)["schema_version"] == 2
    assert Entry(upgraded(old)).command == "factlife run EleutherAI/pythia-160m --profile standard"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_result_is_named(repo: Path, made: Submission) -> None:
    (repo / made.folder / "result.json").chmod(0)
    assert "not readable" in str(examine(repo / made.folder))

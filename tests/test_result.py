"""result.json: a good one passes; each fault is named with file, place, what and how to mend."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.write_docs import PAGES, ROOT

from factlife.errors import SubmissionError
from factlife.result import (
    SCHEMA_VERSION,
    load_result,
    metric_key,
    parse_result,
    problems,
    result_schema,
    result_text,
)

SHA = "0123456789abcdef" * 4


def metric(**changes: Any) -> dict[str, Any]:
    """A good metric."""
    return {
        "metric": "recall.whole_answer_accuracy", "scope": "overall", "revision": "step20",
        "value": 0.9, "ci_low": 0.85, "ci_high": 0.94, "n": 160, "unit": "share of facts",
        "direction": "higher", "interval_method": "bootstrap", "reason": None, **changes,
    }  # fmt: skip


def revision(name: str) -> dict[str, Any]:
    """A good entry of `series`."""
    return {
        "revision": name, "commit_sha": None, "weights_sha256": [SHA], "tensor_hash": None,
        "stage": "main", "step": 20, "tokens": None, "tokens_source": "unknown", "flags": [],
        "reason": None,
    }  # fmt: skip


GOOD: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "benchmark_version": "0.1.0",
    "series_name": "tiny",
    "protocol": {
        "name": "demo", "version": 1, "hash": SHA, "ranked": False, "badge": "demo",
        "params": {"intervals": {"level": 0.95}},
    },
    "model": {
        "repo": "tiny", "architecture": "Olmo2ForCausalLM", "parameters": 1000,
        "dtype": "float32", "attention": "sdpa",
    },
    "series": [revision("step10"), revision("step20")],
    "data": [{"name": "fact-probes", "revision": "0.1.0", "fingerprint": SHA}],
    "env": {
        "image_digest": None, "git_sha": None, "dirty": None, "packages": {"torch": "2.13.0"},
        "device": "cpu", "seeds": {"bootstrap": 0}, "deterministic": True,
    },
    "metrics": {
        "recall.whole_answer_accuracy": metric(),
        "recall.whole_answer_accuracy@LOC": metric(scope="LOC", n=113),
        "recall.emergence50": metric(
            metric="recall.emergence50", revision="", value=None, ci_low=None, ci_high=None,
            unit="tokens", direction="lower", interval_method=None, reason="not above chance",
        ),
    },
    "tables": {"recall": {"path": "tables/recall", "sha256": SHA, "rows": 640}},
    "integrity": {"duplicates": [], "warnings": [], "exclusions": {"recall: too long": 4}},
    "command": "factlife run tiny --profile demo",
    "submitter": None,
}  # fmt: skip


def without(*place: str | int) -> Callable[[dict[str, Any]], None]:
    """Remove what stands at a place."""

    def change(result: Any) -> None:
        for key in place[:-1]:
            result = result[key]
        del result[place[-1]]

    return change


def put(value: Any, *place: str | int) -> Callable[[dict[str, Any]], None]:
    """Put a value at a place."""

    def change(result: Any) -> None:
        for key in place[:-1]:
            result = result[key]
        result[place[-1]] = value

    return change


ACCURACY = ("metrics", "recall.whole_answer_accuracy")
EMERGENCE = ("metrics", "recall.emergence50")
AT = "/metrics/recall.whole_answer_accuracy"

FAULTS = [
    # fault, pointer, what, mend
    (without("model"), "/", "'model' is a required property", "add it"),
    (without("model", "repo"), "/model", "'repo' is a required property", "add it"),
    (without(*ACCURACY, "reason"), AT, "'reason' is a required property", "add it"),
    (put(1, "score"), "/", "'score' was unexpected", "remove it"),
    (put(1, *ACCURACY, "std"), AT, "'std' was unexpected", "remove it"),
    (put("many", "model", "parameters"), "/model/parameters", "not of type 'integer'", "that type"),
    (put(1.5, "model", "parameters"), "/model/parameters", "not of type 'integer'", "that type"),
    (put(True, "model", "parameters"), "/model/parameters", "not of type 'integer'", "that type"),
    (put("0.9", *ACCURACY, "value"), f"{AT}/value", "not of type 'number', 'null'", "that type"),
    (put([], "metrics"), "/metrics", "not of type 'object'", "that type"),
    (put({}, "metrics"), "/metrics", "", "mend it"),
    (put([], "series"), "/series", "", "mend it"),
    (put(-1, "tables", "recall", "rows"), "/tables/recall/rows", "less than the minimum", "mend"),
    (put(-1, "series", 1, "tokens"), "/series/1/tokens", "less than the minimum", "mend it"),
    (put("", "series_name"), "/series_name", "", "mend it"),
    (put("up", *ACCURACY, "direction"), f"{AT}/direction", "'up' is not one of", "one of these"),
    (put("guess", "series", 0, "tokens_source"), "/series/0/tokens_source", "not one of", "one of"),
    (put(SHA[:-1], "protocol", "hash"), "/protocol/hash", "does not match", "64 lower-case hex"),
    (put(SHA.upper(), "protocol", "hash"), "/protocol/hash", "does not match", "64 lower-case"),
    (put(SHA + "\n", "protocol", "hash"), "/protocol/hash", "does not match", "64 lower-case"),
    (put("../x", "data", 0, "fingerprint"), "/data/0/fingerprint", "does not match", "64 lower"),
    (
        put([SHA, "no"], "series", 0, "weights_sha256"),
        "/series/0/weights_sha256/1", "does not match", "64 lower-case hex",
    ),
    (put(0, "schema_version"), "/schema_version", "2 was expected", "this factlife version"),
    (put(3, "schema_version"), "/schema_version", "3 is newer than 2", "install a newer factlife"),
    (put("a\nb", "command"), "/command", "does not match", "in one line"),
    (put("a\n", "command"), "/command", "does not match", "in one line"),
    (put("x" * 4001, "command"), "/command", "is too long", "mend it"),
    (put(math.nan, *ACCURACY, "value"), f"{AT}/value", "nan is not JSON", "null and a reason"),
    (put(math.inf, *ACCURACY, "ci_high"), f"{AT}/ci_high", "inf is not JSON", "null and a reason"),
    (put(-math.inf, *ACCURACY, "ci_low"), f"{AT}/ci_low", "-inf is not JSON", "null and a"),
    (put([0, math.nan], "protocol", "params", "x"), "/protocol/params/x/1", "nan is not JSON", ""),
    (put(2**63, *ACCURACY, "n"), f"{AT}/n", "an integer beyond 64 bits", "write the true one"),
    (put(None, *EMERGENCE, "reason"), "/metrics/recall.emergence50", "without a reason", "say"),
    (put("", *EMERGENCE, "reason"), "/metrics/recall.emergence50", "without a reason", "say"),
    (put(None, *ACCURACY, "ci_low"), AT, "a value without an interval", "give ci_low and ci_high"),
    (put(0.95, *ACCURACY, "ci_low"), AT, "ci_low is above ci_high", "swap or mend"),
    (put(0.7, *ACCURACY, "value"), AT, "value lies outside its interval", "mend"),
    (put("step30", *ACCURACY, "revision"), AT, "'step30' is not in series", "name one that is"),
    (
        put(metric(scope="NAME"), "metrics", "a/b~c"),
        "/metrics/a~1b~0c", "key is not its metric and scope",
        "name it 'recall.whole_answer_accuracy@NAME'",
    ),
]  # fmt: skip


def broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The good result with one change."""
    result = copy.deepcopy(GOOD)
    change(result)
    return result


def test_a_good_result_has_no_problem_and_is_read_back_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(GOOD), "utf-8")
    assert problems(GOOD, "result.json") == []
    assert load_result(path) == GOOD


def test_a_result_of_version_1_is_read_as_one_whose_command_is_not_known(tmp_path: Path) -> None:
    old = {k: v for k, v in GOOD.items() if k != "command"} | {"schema_version": 1}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(old), "utf-8")
    assert problems(old, "f") == []
    assert load_result(path) == GOOD | {"command": None}


def test_version_1_had_no_command() -> None:
    (found,) = problems(GOOD | {"schema_version": 1}, "f")
    assert (found.pointer, found.what) == ("/schema_version", "2 was expected")


@pytest.mark.parametrize(("change", "pointer", "what", "mend"), FAULTS)
def test_one_fault_is_named_with_file_place_what_and_mend(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], pointer: str, what: str, mend: str
) -> None:
    (found,) = problems(broken(change), "my/result.json")
    assert (found.file, found.pointer or "/") == ("my/result.json", pointer)
    assert what in found.what and mend in found.mend and found.what and found.mend
    path = tmp_path / "result.json"
    path.write_text(json.dumps(broken(change)), "utf-8")
    with pytest.raises(SubmissionError) as caught:
        load_result(path)
    assert caught.value.exit_code == 3
    assert str(caught.value) == f"{path}: {pointer}: {found.what}; {found.mend}"


def test_several_faults_are_sorted_and_counted(tmp_path: Path) -> None:
    result = copy.deepcopy(GOOD)
    put("x", "series", 1, "step")(result)
    put(3, "model", "repo")(result)
    put("?", "env", "device2")(result)
    assert [p.pointer for p in problems(result, "f")] == ["/env", "/model/repo", "/series/1/step"]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result), "utf-8")
    with pytest.raises(SubmissionError, match=r"/env: .* \(and 2 more\)$"):
        load_result(path)


def test_a_newer_format_is_one_problem_whatever_else_it_holds() -> None:
    newer = {"schema_version": 7, "everything": "else"}
    (found,) = problems(newer, "f")
    assert "format 7 is newer than 2" in found.what


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": ' * 100_000, b"9" * 5000],
    ids=["empty", "cut", "not UTF-8", "deep list", "deep table", "endless number"],
)
def test_what_is_no_json_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(data)
    with pytest.raises(SubmissionError, match="not readable as JSON") as caught:
        load_result(path)
    assert str(caught.value).startswith(f"{path}: /: ") and "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="No such file"):
        load_result(tmp_path / "result.json")


@pytest.mark.parametrize("value", [None, 3, "text", [], [GOOD]])
def test_json_that_is_no_table_is_refused(value: Any) -> None:
    (found,) = problems(value, "f")
    assert found.pointer == "" and "is not of type 'object'" in found.what
    assert str(found).startswith("f: /: ")


def test_the_scope_overall_is_left_out_of_the_key() -> None:
    assert metric_key("recall.area", "overall") == "recall.area"
    assert metric_key("recall.area", "stated.LOC") == "recall.area@stated.LOC"


def test_every_field_of_the_schema_is_described_required_and_closed() -> None:
    def objects(schema: Any, place: str = "") -> list[str]:
        faults = []
        for name, inner in schema.get("properties", {}).items():
            if not inner.get("description"):
                faults.append(f"{place}/{name} is not described")
            faults += objects(inner, f"{place}/{name}")
        if "properties" in schema:
            closed = schema["additionalProperties"] is False
            if not closed or schema["required"] != list(schema["properties"]):
                faults.append(f"{place} is open")
        elif isinstance(schema.get("additionalProperties"), dict):
            faults += objects(schema["additionalProperties"], f"{place}/*")
        if "items" in schema:
            faults += objects(schema["items"], f"{place}/#")
        return faults

    jsonschema.Draft202012Validator.check_schema(result_schema())
    assert objects(result_schema()) == []


def test_the_published_schema_is_the_code_and_any_validator_can_use_it() -> None:
    text = (ROOT / "docs/result.schema.json").read_text("utf-8")
    assert text == PAGES["docs/result.schema.json"](), "run tox -e docs"
    jsonschema.validate(GOOD, json.loads(text))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken(without("model")), json.loads(text))


def test_the_text_of_a_result_has_one_line_a_metric_and_says_the_same() -> None:
    result = GOOD
    text = result_text(result)
    assert parse_result(text.encode()) == result
    metrics = [x for x in text.splitlines() if '"interval_method"' in x]
    assert len(metrics) == len(result["metrics"]) > 1
    assert (
        result_text({"a": {}, "b": [], "c": None}) == '{\n  "a": {},\n  "b": [],\n  "c": null\n}\n'
    )


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        result_text({"metrics": {"x": float("nan")}})


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"m": {"x": {"value": 1, "value": 9}}}'])
def test_a_key_that_stands_twice_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(SubmissionError, match="stands twice in one object"):
        load_result(tmp_path / "result.json")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\ud800", r"'a\ud800'"), ("a\u202eb", r"'a\u202eb'"), ("a\0b", r"'a\x00b'"),
        ("a\x1b[31m", r"'a\x1b[31m'"), ("a" * 30_000, "'" + "a" * 40 + "'"),
    ],
)  # fmt: skip
def test_texts_that_do_not_show_what_they_say_are_refused(text: str, shown: str) -> None:
    for place in (("series_name",), ("env", "device"), ("protocol", "params", "x")):
        result = copy.deepcopy(GOOD)
        at: Any = result
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = text
        found = [p for p in problems(result, "f") if p.pointer == "/" + "/".join(place)]
        assert found and shown in found[0].what, place
        str(found[0]).encode()


def test_a_key_is_a_text_too() -> None:
    result = copy.deepcopy(GOOD)
    result["env"]["packages"]["to\ud800rch"] = "1"
    (found,) = problems(result, "f")
    assert (found.pointer, found.mend) == ("/env/packages", "rename it")


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a" * 201])
def test_a_series_has_a_short_name_of_one_line(name: str) -> None:
    (found,) = problems({**copy.deepcopy(GOOD), "series_name": name}, "f")
    assert found.pointer == "/series_name" and "is no name" in found.what


@pytest.mark.parametrize("name", ["Ünïcode 模型", "<script>alert(1)</script>", "../../x", "👩‍🔬"])
def test_other_names_are_let_pass(name: str) -> None:
    assert problems({**copy.deepcopy(GOOD), "series_name": name}, "f") == []

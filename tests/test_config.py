"""Profiles: what a TOML file may say, what it may not, and what its hash is taken over."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife import config
from factlife.config import TRACKS, Profile, load_profile, parse_profile, profile_names
from factlife.errors import UsageError

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=100)
DATA = {"fact-probes": "00"}
PACKAGE = Path(config.__file__).parent


def refusal(text: str) -> str:
    """The message with which a profile is refused."""
    with pytest.raises(UsageError) as caught:
        parse_profile(text, "my.toml")
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith("my.toml: ") and "\n" not in message
    return message


# ---- what is shipped -------------------------------------------------------------------------


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_loads_under_its_own_name_with_known_tracks(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.tracks and set(profile.tracks) <= set(TRACKS)
    assert profile.ranked or profile.badge, "an unranked profile needs a mark to be shown"
    assert parse_profile(to_toml(profile), "again") == profile


def to_toml(profile: Profile) -> str:
    """A profile as TOML, tables last."""
    values = dataclasses.asdict(profile)
    flat = {k: v for k, v in values.items() if not isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in flat.items()]
    for table in values.keys() - flat.keys():
        lines.append(f"[{table}]")
        lines += [f"{k} = {json.dumps(v)}" for k, v in values[table].items()]
    return "\n".join(lines)


def test_the_profiles_of_the_design_are_there_and_no_two_share_a_protocol() -> None:
    assert {"standard", "reference", "demo", "timecourse-2025"} <= set(profile_names())
    hashes = {load_profile(n).protocol_hash(DATA) for n in profile_names()}
    assert len(hashes) == len(profile_names())


def test_as_published_means_no_bos_and_source_templates_only() -> None:
    profile = load_profile("timecourse-2025")
    assert (profile.model.bos, profile.recall.templates) == ("never", "source")


def test_a_profile_is_found_by_path_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[intervals]\nlevel = 0.9\n', "utf-8")
    profile = load_profile(str(path))
    assert (profile.name, profile.intervals.level) == ("mine", 0.9)
    assert profile.intervals.draws == config.Intervals().draws  # what is not said stays


def test_an_unknown_profile_names_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match="did you mean 'standard'") as caught:
        load_profile("standart")
    assert all(name in str(caught.value) for name in profile_names())


def test_a_profile_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such profile file"):
        load_profile(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(UsageError, match=r"bytes\.toml: not readable as UTF-8"):
        load_profile(str(tmp_path / "bytes.toml"))


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "x"\nversoin = 1', "unknown key 'versoin' (did you mean 'version'?)"),
        (
            'name = "x"\n[recall]\ngenerations = "all"',
            "recall: unknown key 'generations' (did you mean 'generation'?); valid keys: templates",
        ),
        ('name = "x"\n[intervall]\ndraws = 200', "(did you mean 'intervals'?)"),
        ('name = "x"\nqqqq = 1', "unknown key 'qqqq'; valid keys: name, version"),
        ("version = 1", "key 'name' is missing"),
        ("name = 3", "name: expected str, got 3"),
        ('name = "x"\nversion = "1"', "version: expected int, got '1'"),
        ('name = "x"\nversion = true', "version: expected int, got True"),
        ('name = "x"\nversion = 1.0', "version: expected int, got 1.0"),
        ('name = "x"\nversion = -1', "version: -1 is below 0"),
        ('name = "x"\nranked = 1', "ranked: expected bool, got 1"),
        ('name = "x"\nmodel = "fp32"', "model: expected a table, got 'fp32'"),
        ('name = "x"\n[intervals]\nlevel = true', "level: expected float, got True"),
        ('name = "x"\n[intervals]\nlevel = nan', "level: nan is below 0.5"),
        ('name = "x"\n[intervals]\nlevel = 0.4', "intervals: level: 0.4 is below 0.5"),
        ('name = "x"\n[intervals]\nlevel = 1', "level: 1.0 is not below 1.0"),
        ('name = "x"\n[intervals]\nlevel = inf', "level: inf is not below 1.0"),
        ('name = "x"\n[intervals]\ndraws = 99', "draws: 99 is below 100"),
        ('name = "x"\n[intervals]\nseed = -1', "seed: -1 is below 0"),
        ('name = "x"\n[selection]\nmax_checkpoints = 0', "max_checkpoints: 0 is below 1"),
        ('name = "x"\n[execution]\nbatch_tokens = 0', "batch_tokens: 0 is below 1"),
        (
            'name = "x"\n[model]\ndtype = "float23"',
            "model: dtype: 'float23' is not one of float32, bfloat16, float16 "
            "(did you mean 'float32'?)",
        ),
        ('name = "x"\ntracks = []', "tracks is empty; name at least one of recall"),
        (
            'name = "x"\ntracks = ["recal"]',
            "(did you mean 'recall'?)",
        ),
        ('name = "x"\ntracks = "recall"', "tracks: expected a list, got 'recall'"),
        ('name = "x"\ntracks = [1]', "tracks: expected str, got 1"),
        ('name = "x', "not TOML"),
        ('name = "x"\nname = "y"', "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_a_whole_number_stands_for_a_float_and_nothing_else_is_converted() -> None:
    @dataclasses.dataclass(frozen=True)
    class Some:
        share: float = 0.5
        counts: dict[str, int] = dataclasses.field(default_factory=dict)
        name: str | None = None

    found = config.from_mapping(Some, {"share": 1, "counts": {"a": 2}, "name": "n"}, "here")
    assert found == Some(1.0, {"a": 2}, "n") and type(found.share) is float
    for values, expected in [
        ({"counts": {"a": "2"}}, "here: counts.a: expected int, got '2'"),
        ({"counts": []}, r"here: counts: expected a table, got \[\]"),
        ({"name": 1}, "here: name: expected str, got 1"),
    ]:
        with pytest.raises(UsageError, match=expected):
            config.from_mapping(Some, values, "here")


def outcome(text: str) -> Profile | str:
    """The profile that a text makes, or the message with which it is refused."""
    try:
        return parse_profile(text, "my.toml")
    except UsageError as error:
        return str(error)


VALUES = st.one_of(
    st.booleans(), st.integers(-5, 3000), st.floats(-2, 2), st.text(st.characters(codec="ascii")),
    st.sampled_from(["all", "source", "none", "log", "auto", "float32"]),
    st.lists(st.sampled_from(["recall", "recal"]), max_size=2),
)  # fmt: skip
KEYS = st.sampled_from(
    ["version", "ranked", "tracks", "selection.max_checkpoints", "selection.spacing",
     "model.bos", "recall.generation", "recall.candidates", "intervals.level", "intervals.draws"]
)  # fmt: skip


@EXACT
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_values_make_a_profile_that_can_be_hashed_or_a_message(values: dict[str, Any]) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    found = outcome("\n".join(['name = "x"', *lines]))
    if isinstance(found, str):
        assert found.startswith("my.toml: ")
    else:
        assert len(found.protocol_hash(DATA)) == 64
        assert 0.5 <= found.intervals.level < 1 and found.intervals.draws >= 100


# ---- the hash --------------------------------------------------------------------------------


def leaves(cls: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every plain field of a profile and of the dataclasses in it, by its place."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from leaves(hints[f.name], (*place, f.name))
        else:
            yield (*place, f.name), f


BASE = Profile("x")
LEAVES = dict(leaves(Profile))


def changed(profile: Any, place: tuple[str, ...]) -> Any:
    """The profile with one field set to something else."""
    name, *rest = place
    old = getattr(profile, name)
    if rest:
        return dataclasses.replace(profile, **{name: changed(old, tuple(rest))})
    return dataclasses.replace(profile, **{name: another(LEAVES_BY_NAME[name], old)})


LEAVES_BY_NAME = {place[-1]: f for place, f in LEAVES.items()}


def another(f: Any, old: Any) -> Any:
    """Another allowed value of a field."""
    if allowed := f.metadata.get("allowed"):
        return next(a for a in allowed if a != old)
    if isinstance(old, bool):
        return not old
    if isinstance(old, float):
        return old - 0.01
    if isinstance(old, int):
        return old + 1
    return (*old, "more") if isinstance(old, tuple) else old + "x"


def test_the_loop_below_sees_every_field() -> None:
    assert len(LEAVES_BY_NAME) == len(LEAVES)  # no name twice
    assert {p for p in LEAVES if p[0] == "execution"} == {
        ("execution", "batch_tokens"), ("execution", "device"), ("execution", "kernel"),
    }  # fmt: skip
    assert len(LEAVES) >= 18


@pytest.mark.parametrize("place", LEAVES, ids=".".join)
def test_every_field_but_execution_changes_the_protocol(place: tuple[str, ...]) -> None:
    other = changed(BASE, place)
    assert other != BASE
    same = other.protocol_hash(DATA) == BASE.protocol_hash(DATA)
    assert same == (place[0] == "execution")


def test_the_data_changes_the_protocol_and_its_order_does_not() -> None:
    a, b = {"p": "1", "q": "2"}, {"q": "2", "p": "1"}
    assert BASE.protocol_hash(a) == BASE.protocol_hash(b)
    assert BASE.protocol_hash(a) != BASE.protocol_hash({"p": "1", "q": "3"})
    assert BASE.protocol_hash(a) != BASE.protocol_hash({"p": "1"})


def test_params_are_json_and_say_nothing_of_execution() -> None:
    params = BASE.params()
    assert json.loads(json.dumps(params)) == params
    assert "execution" not in params and params["tracks"] == ["recall", "circuits"]


def test_the_hash_is_the_same_in_every_process() -> None:
    code = (
        "from factlife.config import load_profile;"
        "print(load_profile('standard').protocol_hash({'b': '2', 'a': '1'}))"
    )
    here = load_profile("standard").protocol_hash({"a": "1", "b": "2"})
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here

"""Is a result's protocol what it says? Its hash, and the shipped profile whose name it bears."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from factlife.config import load_profile, profile_names
from factlife.result import Problem
from factlife.store import sha256_json

PAST = "past.json"  # profile -> version -> sha256 of its parameters: all that were shipped
MIRRORED = ("name", "version", "ranked", "badge")


def protocol_hash(result: Mapping[str, Any]) -> str:
    """The protocol hash, computed anew from the parameters and the data sets' fingerprints."""
    data = {d["name"]: d["fingerprint"] for d in result["data"]}
    return sha256_json({"params": result["protocol"]["params"], "data": data})


def protocol_problems(result: Mapping[str, Any], file: str) -> Iterator[Problem]:
    """Where a result's protocol contradicts itself. `result` is to the format."""
    protocol = result["protocol"]
    params = protocol["params"]
    for key in MIRRORED:
        if key in params and protocol[key] != params[key]:
            what = f"says {protocol[key]!r}, its parameters say {params[key]!r}"
            yield Problem(file, f"/protocol/{key}", what, "hand in what `factlife score` wrote")
    if (expected := protocol_hash(result)) != protocol["hash"]:
        what = f"is not the hash of the parameters and data beside it, which is {expected}"
        yield Problem(file, "/protocol/hash", what, "hand in what `factlife score` wrote")


def profile_problems(result: Mapping[str, Any], file: str) -> Iterator[Problem]:
    """Where a result bears the name of a shipped profile without being one.

    A run of some of a profile's tracks (`run --tracks`) is let pass; it is never ranked.
    """
    protocol = result["protocol"]
    name, version = protocol["name"], protocol["version"]
    if name not in profile_names():
        if protocol["ranked"]:
            what = f"{name!r} is no profile of factlife and cannot be ranked"
            yield Problem(file, "/protocol/ranked", what, "run the profile `standard`")
        return
    shipped = shipped_params(name, version)
    if shipped is None:
        if not _is_past(name, version, protocol["params"]):
            what = f"{name} has no such version, or other parameters in it: {version}"
            mend = "measure with this factlife version, or install the one that was used"
            yield Problem(file, "/protocol/version", what, mend)
        return
    params = protocol["params"]
    fewer = set(params.get("tracks", ["none"])) <= set(shipped["tracks"])
    for key in sorted({*params, *shipped} - ({"tracks"} if fewer else set())):
        if params.get(key) != shipped.get(key):
            what = f"differs from the profile {name} version {version} as it is shipped"
            mend = f"run `--profile {name}` unchanged, or name your own profile otherwise"
            yield Problem(file, f"/protocol/params/{key}", what, mend)


def is_shipped(protocol: Mapping[str, Any]) -> bool:
    """Whether the parameters are, wholly, those of the shipped profile of that name and version."""
    name, version, params = protocol["name"], protocol["version"], protocol["params"]
    return params == shipped_params(name, version) or _is_past(name, version, params)


@functools.cache
def shipped_params(name: str, version: int) -> dict[str, Any] | None:
    """Parameters of a profile of this factlife; None if it ships no such name and version."""
    if name not in profile_names():
        return None
    profile = load_profile(name)
    return profile.params() if profile.version == version else None


def _is_past(name: str, version: int, params: Mapping[str, Any]) -> bool:
    """Whether an earlier factlife shipped these parameters under that name and version."""
    known = recorded().get(name, {}).get(str(version))
    return known is not None and sha256_json(params) == known


def recorded() -> dict[str, dict[str, str]]:
    """What `past.json` records; `python -m tests.freeze_profiles` adds the present versions."""
    text = resources.files("factlife").joinpath("profiles", PAST).read_text("utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)
    return found

"""What a result rests on, in words: the same in reports and on the board."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from factlife.report.html import Child, h

# What `factlife demo` calls the series that it trains, before the architecture.
DEMO_SERIES = "factlife-reference-"
# What `factlife series train` calls them.
SIZED_SERIES = re.compile(DEMO_SERIES + r"([a-z0-9_]{1,20})-([0-9]{1,3})x([0-9]{1,5})", re.ASCII)


def training_command(result: Mapping[str, Any], measuring: str) -> str | None:
    """The command that trains a series which exists nowhere else; None for any other series.

    Args:
        measuring: the command that measures it; its series is the folder that is trained into.
    """
    sized = SIZED_SERIES.fullmatch(str(result["series_name"]))
    try:
        words = shlex.split(measuring)
    except ValueError:
        return None
    if not sized or words[:2] != ["factlife", "run"] or len(words) < 3 or words[2][:1] == "-":
        return None
    arch, depth, width = sized.groups()
    seed = result["env"]["seeds"].get("training", 0)
    size = ["--arch", arch, "--depth", depth, "--width", width, "--seed", str(seed)]
    return shlex.join(["factlife", "series", "train", words[2], *size])


def command(result: Mapping[str, Any]) -> str:
    """The command that measures the series again with the same profile."""
    repo = result["model"]["repo"]
    series = repo if "/" in repo else result["series_name"]
    profile = result["protocol"]["name"]
    if profile == "demo" and (arch := series.removeprefix(DEMO_SERIES)) != series:
        return shlex.join(["factlife", "demo", "--arch", arch])  # it exists inside a demo only
    return shlex.join(["factlife", "run", series, "--profile", profile])


def identity(result: Mapping[str, Any]) -> list[tuple[str, Child]]:
    """Protocol, data, model and environment of a result, for the report and the board."""
    protocol, model, env = result["protocol"], result["model"], result["env"]
    data = [
        h("li", f"{d['name']} {d['revision']} ", h("code", d["fingerprint"]))
        for d in result["data"]
    ]
    packages = ", ".join(f"{k} {v}" for k, v in sorted(env["packages"].items()))
    seeds = ", ".join(f"{k} {v}" for k, v in sorted(env["seeds"].items()))
    return [
        ("protocol", f"{protocol['name']} version {protocol['version']}"),
        ("protocol hash", h("code", protocol["hash"])),
        ("data", h("ul", data)),
        ("model", f"{model['repo']}: {model['architecture']}, {model['parameters']:,} parameters"),
        ("measured in", f"{model['dtype']}, attention {model['attention']}"),
        ("factlife", f"{result['benchmark_version']}, {source(env)}"),
        ("container image", h("code", env["image_digest"]) if env["image_digest"] else "none"),
        ("device", env["device"]),
        ("deterministic algorithms", "yes" if env["deterministic"] else "no"),
        ("seeds", seeds or "none"),
        ("packages", packages or "not recorded"),
        ("submitter", result["submitter"] or "none"),
    ]


def source(env: Mapping[str, Any]) -> str:
    """The commit of the benchmark's own source and whether it had local changes."""
    if env["git_sha"] is None:
        return "source commit not known"
    state = {True: " with local changes", False: "", None: " (local changes not known)"}
    return f"source commit {env['git_sha']}{state[env['dirty']]}"

"""Forms of a series, the registry, gaps and main: without a network and without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlife.config import Selection
from factlife.errors import UsageError
from factlife.series import hub
from factlife.series.discover import find_series
from factlife.series.fetch import disk_needed
from factlife.series.local import Revision
from factlife.series.names import parse_name
from factlife.series.registry import registry, tokens_of
from factlife.series.select import select
from factlife.series.survey import equal_weights


def tokens(name: str, repo: str) -> tuple[int | None, str]:
    parsed = parse_name(name)
    assert parsed
    return tokens_of(parsed, repo)


def checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")


def remote(name: str, step: int | None = None, aliases: tuple[str, ...] = ()) -> Revision:
    known = None if step is None else step * 10
    return Revision(
        name, "org/m", Path("/x") / name, "main", step, known, "user", name, True, aliases
    )


@pytest.mark.parametrize(
    ("name", "repo", "expected"),
    [
        # 1024 sequences of 2048 tokens: 143000 * 2097152 = 299892736000
        ("step143000", "EleutherAI/pythia-2.8b", (299_892_736_000, "registry")),
        ("step1000", "EleutherAI/pythia-160m-deduped", (2_097_152_000, "registry")),
        ("step1000", "EleutherAI/pythia-410m-seed3", (2_097_152_000, "registry")),
        ("step1000", "EleutherAI/pythia-2.8b-v0", (None, "unknown")),
        ("step1000", "someone/pythia-2.8b", (None, "unknown")),
        ("step1000-tokens4B", "allenai/OLMo-7B", (4_000_000_000, "name")),
        # 3896 billion in stage 1, then 50 of the second stage
        (
            "stage2-ingredient1-step11931-tokens50B",
            "allenai/OLMo-2-1124-7B",
            (3_946_000_000_000, "registry"),
        ),
        ("stage1-step150-tokens1B", "allenai/OLMo-2-1124-7B", (1_000_000_000, "name")),
        ("stage1-step1413814", "allenai/Olmo-3-1025-7B", (None, "unknown")),
    ],
)
def test_tokens_come_with_their_source(
    name: str, repo: str, expected: tuple[int | None, str]
) -> None:
    assert tokens(name, repo) == expected


def test_every_registry_entry_can_match_and_says_something() -> None:
    assert registry()
    for entry in registry():
        assert entry.tokens_per_step or entry.stage


def test_megatron_like_folders_hold_their_checkpoint_one_level_deeper(tmp_path: Path) -> None:
    for step in (500, 20):
        checkpoint(tmp_path / f"global_step{step}" / "hf")
        (tmp_path / f"global_step{step}" / "mp_rank_00").mkdir()
    series = find_series(str(tmp_path))
    assert [(r.name, r.step, r.path.name) for r in series.revisions] == [
        ("global_step20", 20, "hf"),
        ("global_step500", 500, "hf"),
    ]


def test_a_trainers_final_model_does_not_hide_its_checkpoints(tmp_path: Path) -> None:
    checkpoint(tmp_path / "out")
    for step in (500, 1000):
        checkpoint(tmp_path / "out" / f"checkpoint-{step}")
    series = find_series(str(tmp_path / "out"))
    assert [r.step for r in series.revisions] == [500, 1000]
    assert any("itself holds weights" in w for w in series.warnings)


@pytest.mark.parametrize(
    ("steps", "holes"),
    [
        ((0, 1, 2, 4, 8, 16, 512, 1000, 2000, 3000, 4000), []),  # Pythia's own spacing
        ((1000, 2000, 3000, 4000, 6000, 7000), ["between step 4000 and step 6000"]),
        ((1000, 2000, 3000, 4000, 4321), []),
        ((1000, 2000, 3000, 4000, 5321), []),  # the end of a run need not lie on the grid
        ((1, 10, 100, 1000), []),
    ],
)
def test_gaps_in_a_regular_series_are_warned_of(
    tmp_path: Path, steps: tuple[int, ...], holes: list[str]
) -> None:
    for step in steps:
        checkpoint(tmp_path / f"step{step}")
    found = [w for w in find_series(str(tmp_path)).warnings if "no revision between" in w]
    assert len(found) == len(holes)
    for warning, hole in zip(found, holes, strict=True):
        assert hole in warning


# ---- a Hugging Face cache --------------------------------------------------------------------


def cached(folder: Path, refs: dict[str, str], without_weights: str = "") -> None:
    """A repo in a cache: refs, snapshots with links into blobs."""
    (folder / "blobs").mkdir(parents=True)
    for name, sha in refs.items():
        snapshot = folder / "snapshots" / sha
        snapshot.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / name).write_text(sha)
        (snapshot / "config.json").write_text(json.dumps({}))
        blob = folder / "blobs" / ("final" if name == "main" else sha)
        blob.write_bytes(b"x")
        if name != without_weights and not (snapshot / "model.safetensors").exists():
            (snapshot / "model.safetensors").symlink_to(blob)


def test_a_cache_folder_is_a_series_of_its_refs(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--tiny"
    cached(folder, {"step2": "b" * 40, "step10": "c" * 40, "step5": "d" * 40}, "step5")
    series = find_series(str(folder))
    assert series.name == "org/tiny"
    assert [(r.name, r.commit_sha, r.remote) for r in series.revisions] == [
        ("step2", "b" * 40, False),
        ("step10", "c" * 40, False),
    ]
    assert any("1 revisions are in the cache without their weights" in w for w in series.warnings)


def test_main_with_the_blobs_of_the_last_step_is_its_alias(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--tiny"
    cached(folder, {"step2": "b" * 40, "step10": "c" * 40, "main": "e" * 40})
    assert [r.name for r in find_series(str(folder)).revisions] == ["step2", "step10", "main"]
    link = folder / "snapshots" / ("c" * 40) / "model.safetensors"
    link.unlink()
    link.symlink_to(folder / "blobs" / "final")
    last = find_series(str(folder)).revisions[-1]
    assert (last.name, last.aliases) == ("step10", ("main",))


def test_a_repo_that_is_not_in_the_cache_is_named_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="org/none is not in the cache .* network is off"):
        find_series("org/none")


@pytest.mark.parametrize("entry", ['path = "a"\nrevision = "b"', ""])
def test_an_entry_says_either_a_path_or_a_revision(tmp_path: Path, entry: str) -> None:
    text = f'format = 1\nname = "x"\n[[revision]]\nname = "r"\n{entry}\n'
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match="give either a path, or a repo and a revision"):
        find_series(str(tmp_path / "s.toml"))


# ---- equal weights, selection, disk ----------------------------------------------------------


def test_of_equal_weights_the_first_counts_unless_main_has_them() -> None:
    a, b, c, main = remote("a", 1), remote("b", 2), remote("c", 3), remote("main")
    assert equal_weights([(a, "x"), (b, "y"), (c, "x")]) == ({"c": "a"}, {})
    assert equal_weights([(a, "x"), (b, "y"), (c, "x"), (main, "x")]) == (
        {"a": "c"},
        {"main": "c"},
    )
    end = remote("c", 3, ("main",))
    assert equal_weights([(a, "x"), (b, "x"), (end, "x")]) == ({"a": "c", "b": "c"}, {})
    assert equal_weights([(a, None), (b, None)]) == ({}, {})


@given(st.lists(st.sampled_from("xyz") | st.none(), max_size=8), st.booleans())
def test_every_group_of_equal_weights_keeps_one_revision(
    ids: list[str | None], with_main: bool
) -> None:
    revisions = [remote(f"r{i}", i) for i in range(len(ids))]
    if with_main and revisions:
        revisions[-1] = remote("main")
    duplicates, aliases = equal_weights(list(zip(revisions, ids, strict=True)))
    gone = {*duplicates, *aliases}
    for identity in {i for i in ids if i is not None}:
        names = [r.name for r, i in zip(revisions, ids, strict=True) if i == identity]
        assert len([n for n in names if n not in gone]) == 1
    assert not {*duplicates.values(), *aliases.values()} & gone


@given(st.integers(1, 60), st.integers(1, 20))
def test_a_main_of_its_own_does_not_disturb_the_selection(n: int, wanted: int) -> None:
    steps = [remote(f"s{i}", i) for i in range(n)]
    main = remote("main")
    chosen = select([*steps, main], Selection(max_checkpoints=wanted))
    assert chosen[-1] is main
    assert len(chosen) == min(n + 1, wanted)
    if 1 < wanted <= n:
        assert chosen[:-1] == select(steps, Selection(max_checkpoints=wanted - 1))


@given(st.lists(st.integers(1, 100), max_size=12))
def test_the_disk_holds_any_three_checkpoints_in_a_row(sizes: list[int]) -> None:
    needed = disk_needed(sizes)
    assert all(sum(sizes[i : i + 3]) <= needed for i in range(len(sizes)))
    assert needed <= sum(sorted(sizes)[-3:])

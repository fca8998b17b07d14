"""The run folder: a part exists whole or not at all, and nothing foreign is taken for ours."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife import schema, store
from factlife.errors import IntegrityError, PartialError, UsageError
from factlife.store import RunStore, checksum_path

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=60)
MANIFEST: dict[str, Any] = {"identity": {"series": "tiny", "protocol_hash": "aa"}, "seed": 0}
PLACE = {"stage": "main", "step": 10}
PACKAGE = Path(store.__file__).parent


def recall(fact: str = "f1", revision: str = "step10", **changes: Any) -> dict[str, Any]:
    """A good row of `recall`."""
    row = {
        "revision": revision, "stage": "main", "step": 10, "fact_id": fact, "template_id": "t",
        "template_role": "source", "relation": "r", "group": "LOC", "rank": 0,
        "logprob_sum_nats": -0.5, "n_tokens": 2, "whole_answer": True,
    }  # fmt: skip
    return row | changes


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunStore]:
    """An open run folder."""
    with RunStore.writer(tmp_path / "run", MANIFEST) as opened:
        yield opened


def files(folder: Path) -> set[str]:
    """All files under a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# ---- whole or not at all ---------------------------------------------------------------------


def test_a_part_comes_back_as_it_was_written_and_need_not_be_measured_again(run: RunStore) -> None:
    path = run.write_part("recall", [recall("f1"), recall("f2", rank=None)], PLACE, "weights-1")
    assert path.relative_to(run.root).as_posix() == "tables/recall/stage=main/step=10/part.parquet"
    assert run.find_part("recall", PLACE, "weights-1")
    rows = run.read("recall").to_pylist()
    assert [(r["fact_id"], r["rank"], r["reason"]) for r in rows] == [
        ("f1", 0, None), ("f2", None, None),
    ]  # fmt: skip
    assert files(path.parent) == {"part.parquet", "part.parquet.sha256"}


def test_nothing_written_is_nothing_found(run: RunStore) -> None:
    assert not run.find_part("recall", PLACE)
    assert run.read("recall").equals(schema.RECALL.arrow.empty_table())
    assert run.digest("recall")["rows"] == 0


def crash_at_write_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die, so to speak, when it comes to write a file of this name."""
    real = store.atomic_open

    @contextmanager
    def opened(path: Path) -> Iterator[Any]:
        if path.name == name:
            raise KeyboardInterrupt
        with real(path) as f:
            yield f

    monkeypatch.setattr(store, "atomic_open", opened)


@pytest.mark.parametrize("name", ["part.parquet", "part.parquet.sha256"])
def test_a_crash_before_either_file_leaves_no_part(
    run: RunStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    crash_at_write_of(name, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run.write_part("recall", [recall()], PLACE)
    assert not run.find_part("recall", PLACE)
    assert run.read("recall").num_rows == 0
    assert [f for f in files(run.root) if f.endswith(".tmp")] == []


def test_a_crash_between_checksum_and_part_leaves_no_part(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == "part.parquet":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        run.write_part("recall", [recall()], PLACE)
    assert checksum_path(run.part_path("recall", PLACE)).is_file()  # the crash was in between
    assert not run.find_part("recall", PLACE)
    assert run.read("recall").num_rows == 0


def test_a_kill_in_mid_write_leaves_a_temporary_file_that_no_one_reads_and_the_next_run_removes(
    run: RunStore, tmp_path: Path
) -> None:
    part = run.part_path("recall", PLACE)
    part.parent.mkdir(parents=True)
    leftover = part.with_name(".part.parquet.4711.tmp")
    leftover.write_bytes(b"PAR1 half a file")
    assert not run.find_part("recall", PLACE)
    assert run.read("recall").num_rows == 0
    run.write_part("recall", [recall()], PLACE)
    other = tmp_path / "other"
    with RunStore.writer(other, MANIFEST):
        (other / ".result.json.4711.tmp").touch()
    with RunStore.writer(other, MANIFEST):
        assert files(other) == {"manifest.json", ".lock"}


# ---- a disk that refuses -----------------------------------------------------------------------


def full(*_: object, **__: object) -> Any:
    """What every call to a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile(io.BufferedWriter):
    """A file on a full disk."""

    write = full


def fail_at(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let opening, writing, fsync or rename of any new file fail."""
    if stage == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif stage == "rename":
        monkeypatch.setattr(Path, "replace", full)
    else:
        real = Path.open

        def open_(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
            if mode != "wb":
                return real(self, mode, *args, **more)
            return full() if stage == "open" else FullFile(real(self, "wb", buffering=0))

        monkeypatch.setattr(Path, "open", open_)


@pytest.mark.parametrize("stage", ["open", "write", "fsync", "rename"])
def test_a_full_disk_keeps_what_stood_there_and_leaves_no_temporary_file(
    run: RunStore, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    run.write_part("recall", [recall("old")], PLACE, "old")
    before = {p: (run.root / p).read_bytes() for p in files(run.root)}
    with monkeypatch.context() as patched:
        fail_at(stage, patched)
        with pytest.raises(PartialError, match="No space left on device") as caught:
            run.write_part("recall", [recall("new")], PLACE, "new")
    assert caught.value.exit_code == 5
    assert "run the same command again" in str(caught.value)
    assert {p: (run.root / p).read_bytes() for p in files(run.root)} == before
    assert run.find_part("recall", PLACE, "old")
    assert [r["fact_id"] for r in run.read("recall").to_pylist()] == ["old"]


def test_a_disk_that_fills_up_with_the_part_leaves_the_old_checksum_valid(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_part("recall", [recall("old")], PLACE)
    real = os.fsync

    def fsync(descriptor: int) -> None:  # the small checksum still finds room, the part does not
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        full() if name.startswith(".part.parquet.") and "sha256" not in name else real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PartialError):
        run.write_part("recall", [recall("new")], PLACE)
    assert run.find_part("recall", PLACE)


def test_json_with_nan_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    store.write_json(path, {"é": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text("utf-8")) == {"é": 1}
    assert files(tmp_path) == {"result.json"}


def test_a_folder_that_cannot_be_synced_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_a_place_that_cannot_be_written_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="cannot make run folder .*choose another --out") as caught,
        RunStore.writer(tmp_path / "file" / "run", MANIFEST),
    ):
        pass
    assert caught.value.exit_code == 2


def test_a_folder_without_the_right_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def open_(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if self.name == ".lock":  # the tests may run as root, whom no right stops
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, mode, *args, **more)

    monkeypatch.setattr(Path, "open", open_)
    with (
        pytest.raises(UsageError, match="cannot write in run folder .*Permission denied"),
        RunStore.writer(tmp_path / "run", MANIFEST),
    ):
        pass


# ---- parts that must not be trusted --------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    """Make a part, or its checksum, something else."""
    if how == "bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "no checksum":
        checksum_path(path).unlink()
    elif how == "empty checksum":
        checksum_path(path).write_bytes(b"")
    else:
        checksum_path(path).write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("how", ["bit", "cut", "no checksum", "empty checksum", "odd checksum"])
def test_a_damaged_part_is_computed_again_with_a_warning_and_never_read(
    run: RunStore, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path = run.write_part("recall", [recall()], PLACE)
    damage(path, how)
    with caplog.at_level(logging.WARNING):
        assert not run.find_part("recall", PLACE)
    assert f"{path}: checksum is wrong; this part is computed again" in caplog.text
    with pytest.raises(IntegrityError, match="checksum is wrong; run the same") as caught:
        run.read("recall")
    assert caught.value.exit_code == 4
    run.write_part("recall", [recall()], PLACE)
    assert run.find_part("recall", PLACE)
    assert run.read("recall").num_rows == 1


def test_a_part_of_other_weights_is_computed_again_with_a_warning(
    run: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    run.write_part("recall", [recall()], PLACE, "weights-1")
    assert not run.find_part("recall", PLACE, "weights-2")
    assert "made from other weights" in caplog.text


def rewrite_version(path: Path, version: int | None) -> None:
    """Give a part another schema version, with a checksum that holds."""
    table = pq.read_table(path, partitioning=None)
    metadata = dict(table.schema.metadata)
    del metadata[schema.VERSION_KEY]
    if version is not None:
        metadata[schema.VERSION_KEY] = str(version).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)
    checksum_path(path).write_text(f"{store.sha256_file(path)}  {path.name}\n")


def test_a_part_of_a_newer_factlife_is_neither_read_nor_written_over(run: RunStore) -> None:
    path = run.write_part("recall", [recall()], PLACE)
    rewrite_version(path, schema.RECALL.version + 1)
    message = r"table recall has version 2, this factlife reads up to 1: install a newer factlife"
    for use in (lambda: run.find_part("recall", PLACE), lambda: run.read("recall")):
        with pytest.raises(UsageError, match=message) as caught:
            use()
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("version", [0, None])
def test_a_part_of_an_older_version_is_computed_again_and_not_read(
    run: RunStore, version: int | None
) -> None:
    rewrite_version(run.write_part("recall", [recall()], PLACE), version)
    assert not run.find_part("recall", PLACE)
    with pytest.raises(IntegrityError, match="has version 0, this factlife reads 1"):
        run.read("recall")


def test_a_part_with_other_columns_is_no_part_of_the_table(run: RunStore) -> None:
    path = run.write_part("recall", [recall()], PLACE)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["rank"]), path)
    checksum_path(path).write_text(f"{store.sha256_file(path)}  {path.name}\n")
    with pytest.raises(IntegrityError, match="table recall: columns are"):
        run.read("recall")


def test_two_parts_with_one_key_are_refused(run: RunStore) -> None:
    run.write_part("recall", [recall()], PLACE)
    run.write_part("recall", [recall()], {"stage": "renamed", "step": 10})
    with pytest.raises(IntegrityError, match="one key: revision 'step10', fact_id 'f1'"):
        run.read("recall")


@pytest.mark.parametrize(
    "rows",
    [
        [recall(fact=None)],
        [recall(logprob_sum_nats=float("nan"))],
        [recall(tokens=3)],
        [recall(), recall(rank=5)],
        schema.RECALL.arrow.empty_table().drop_columns(["rank"]),
    ],
    ids=["null", "nan", "unknown column", "repeated key", "table without a column"],
)
def test_rows_that_break_the_contract_are_not_written(run: RunStore, rows: Any) -> None:
    with pytest.raises(IntegrityError, match="table recall"):
        run.write_part("recall", rows, PLACE)
    assert files(run.root) == {"manifest.json", ".lock"}


# ---- same rows, same bytes -------------------------------------------------------------------


def test_equal_rows_give_equal_bytes_however_they_come(run: RunStore) -> None:
    rows = [recall(f"f{i}", logprob_sum_nats=-i / 3) for i in range(50)]
    first = run.write_part("recall", rows, PLACE, "w").read_bytes()
    bare = pa.table({n: pa.array([r.get(n) for r in rows], t) for n, t in zip(
        schema.RECALL.arrow.names, schema.RECALL.arrow.types, strict=True)})  # fmt: skip
    fields = [f.remove_metadata() for f in schema.RECALL.arrow]
    bare = pa.Table.from_arrays(bare.columns, schema=pa.schema(fields))
    assert run.write_part("recall", bare, PLACE, "w").read_bytes() == first
    assert run.write_part("recall", rows, PLACE, "other").read_bytes() != first


def test_the_digest_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    digests = []
    for order in ([1, 2, 10], [10, 1, 2]):
        with RunStore.writer(tmp_path / str(order[0]), MANIFEST) as run:
            for step in order:
                run.write_part(
                    "recall", [recall(revision=f"step{step}")], {"stage": "main", "step": step}
                )
            digests.append(run.digest("recall"))
    assert digests[0] == digests[1]
    assert digests[0] | {"sha256": ""} == {"path": "tables/recall", "sha256": "", "rows": 3}


def test_the_digest_is_what_sha256sum_says(run: RunStore) -> None:
    # "stage2-x" sorts before "stage2/" as text and after it as a path
    for stage in ("stage2", "stage2-x", "stage 2", "stage10"):
        run.write_part("recall", [recall(revision=stage)], {"stage": stage, "step": 1})
    command = "find tables/recall -name part.parquet | xargs sha256sum | LC_ALL=C sort | sha256sum"
    done = subprocess.run(
        ["bash", "-c", command], cwd=run.root, capture_output=True, text=True, check=True
    )
    assert run.digest("recall")["sha256"] == done.stdout.split()[0]
    part = run.part_path("recall", {"stage": "stage2", "step": 1})
    subprocess.run(
        ["sha256sum", "--check", checksum_path(part).name], cwd=part.parent, check=True,
        capture_output=True,
    )  # fmt: skip


def test_the_digest_sees_a_changed_part(run: RunStore) -> None:
    run.write_part("recall", [recall()], PLACE)
    before = run.digest("recall")
    run.write_part("recall", [recall(rank=1)], PLACE)
    assert run.digest("recall")["sha256"] != before["sha256"]


@EXACT
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_any_partition_value_makes_one_folder_below_its_table(value: str) -> None:
    path = RunStore(Path("run")).part_path("recall", {"stage": value, "step": 1})
    parts = path.parts
    assert parts[:3] == ("run", "tables", "recall") and len(parts) == 6
    assert re.fullmatch(r"stage=[A-Za-z0-9_.~%-]+", parts[3])


@EXACT
@given(st.text(max_size=20), st.text(max_size=20))
def test_two_partition_values_never_share_a_folder(a: str, b: str) -> None:
    try:
        a.encode(), b.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    run = RunStore(Path("run"))
    paths = {run.part_path("recall", {"stage": s, "step": 1}) for s in (a, b)}
    assert len(paths) == len({a, b})


@pytest.mark.parametrize(
    "stage", ["a/b", "a=b", "stage 2", "..", "ステージ", "%2F", "a\nb", "'; rm -rf ~"]
)
def test_odd_partition_values_come_back_in_the_rows(run: RunStore, stage: str) -> None:
    where = {"stage": stage, "step": "10/é"}
    path = run.write_part("recall", [recall(stage=stage)], where, "w")
    assert path.is_relative_to(run.root / "tables" / "recall")
    assert run.find_part("recall", where, "w")
    assert run.read("recall")["stage"].to_pylist() == [stage]


def test_a_removed_part_leaves_nothing_and_a_second_removal_is_no_fault(run: RunStore) -> None:
    run.write_part("recall", [recall()], PLACE)
    kept = {"stage": "main", "step": 20}
    run.write_part("recall", [recall(revision="step20")], kept)
    run.remove_part("recall", PLACE)
    run.remove_part("recall", PLACE)
    assert run.read("recall")["revision"].to_pylist() == ["step20"]
    assert not checksum_path(run.part_path("recall", PLACE)).exists()
    run.remove_table("recall")
    run.remove_table("recall")
    assert run.read("recall").num_rows == 0


# ---- manifest and identity -------------------------------------------------------------------


def test_the_manifest_is_written_once_and_kept(tmp_path: Path) -> None:
    with RunStore.writer(tmp_path, MANIFEST) as run:
        assert run.manifest() == {"format": 1, **MANIFEST}
    with RunStore.writer(tmp_path, MANIFEST | {"seed": 7}) as run:
        assert run.manifest()["seed"] == 0


def test_a_folder_of_another_measurement_is_refused_with_both_values_named(tmp_path: Path) -> None:
    with RunStore.writer(tmp_path, MANIFEST):
        pass
    before = (tmp_path / "manifest.json").read_bytes()
    other = {"identity": {"series": "tiny", "protocol_hash": "bb"}}
    with (
        pytest.raises(UsageError, match="protocol_hash: aa there, bb now") as caught,
        RunStore.writer(tmp_path, other),
    ):
        pass
    assert "series" not in str(caught.value)  # what agrees is not named
    assert caught.value.exit_code == 2
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_manifest_of_a_newer_factlife_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, **MANIFEST}))
    message = "has format 2, this factlife reads up to 1: install a newer factlife"
    with pytest.raises(UsageError, match=message), RunStore.writer(tmp_path, MANIFEST):
        pass


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"format": "new"}', '{"format": 1, "identity": 3}', "\x80"],
)
def test_a_damaged_manifest_is_an_integrity_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with (
        pytest.raises(IntegrityError, match="manifest.json is damaged") as caught,
        RunStore.writer(tmp_path, MANIFEST),
    ):
        pass
    assert caught.value.exit_code == 4


def test_tables_whose_manifest_is_gone_are_not_taken_over(tmp_path: Path) -> None:
    with RunStore.writer(tmp_path, MANIFEST) as run:
        run.write_part("recall", [recall()], PLACE)
    (tmp_path / "manifest.json").unlink()
    with (
        pytest.raises(UsageError, match=r"holds tables but no manifest\.json"),
        RunStore.writer(tmp_path, MANIFEST),
    ):
        pass
    assert not (tmp_path / "manifest.json").exists()


def test_only_a_run_folder_is_opened_for_reading(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run folder"):
        RunStore.existing(tmp_path / "none")
    with pytest.raises(UsageError, match=r"is no run folder: it has no manifest\.json"):
        RunStore.existing(tmp_path)
    with RunStore.writer(tmp_path, MANIFEST):
        assert RunStore.existing(tmp_path).manifest()["identity"] == MANIFEST["identity"]


# ---- one writer ------------------------------------------------------------------------------

HOLDER = """
    import sys, time
    from pathlib import Path
    from factlife.store import RunStore
    identity = {"series": "tiny", "protocol_hash": "aa"}
    with RunStore.writer(Path(sys.argv[1]), {"identity": identity}):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_refused_until_the_first_is_gone_however_it_ends(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    message = f"is in use by process {holder.pid} on .*; wait for it or choose another --out"
    with pytest.raises(UsageError, match=message), RunStore.writer(tmp_path, MANIFEST):
        pass
    assert RunStore.existing(tmp_path).read("recall").num_rows == 0  # readers need no lock
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunStore.writer(tmp_path, MANIFEST) as run:
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()
        run.write_part("recall", [recall()], PLACE)
    assert (tmp_path / ".lock").read_text() == ""


def test_a_writer_that_fails_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunStore.writer(tmp_path, MANIFEST):
        _ = 1 / 0
    with RunStore.writer(tmp_path, MANIFEST) as run:
        assert run.root == tmp_path


# ---- hashes ----------------------------------------------------------------------------------


def test_hashes_are_of_the_bytes_and_of_one_spelling(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 500_000)  # more than one block of 1 MiB
    assert store.sha256_file(tmp_path / "f") == hashlib.sha256(b"abc" * 500_000).hexdigest()
    assert store.canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'
    assert store.sha256_json({"b": 1, "a": 2}) == store.sha256_json({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.canonical_json(float("inf"))

"""Several processes over gloo train, read, save and go on as one does.

Every run here is the same plan; bounds are 1e-4 nats on losses and on every log-probability.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.injection.small import PLACE, corpus, facts, loaded, means, plan
from tests.processes import together

from factlife.errors import IntegrityError, UsageError
from factlife.injection.measure import measure
from factlife.injection.probe import ProbePass
from factlife.injection.shared import SharedPass, divide
from factlife.scoring.targets import Target
from factlife.training import loop, parallel
from factlife.training import state as states
from factlife.training.config import TrainingConfig

NATS = 1e-4
RATE = 1e-3
NUMBERS = (
    ("training_log", "loss"),
    ("training_log", "background_loss"),
    ("probes", "logprob_sum_nats"),
    ("injection_recall", "logprob_sum_nats"),
)


class StopError(Exception):
    """What breaks a run off."""


def carry_out(work: Path, out: Path | None, stop: int = 0, arch: str = "llama", **how: Any) -> None:
    """The tiny run with a state after every update, broken off after update `stop` if not 0."""

    def on_step(report: Any) -> None:
        if report.step == stop:
            raise StopError

    made = plan(**{"accumulation": 2, "peak_lr": RATE, **how})
    chosen = means(work, state_seconds=0.0, on_step=on_step, batch_tokens=200)
    try:
        tables = measure(loaded(arch), made, corpus(), facts(), PLACE, chosen)
    except StopError:
        return
    if out is not None and not parallel.rank():
        out.mkdir()
        for name, table in tables.items():
            pq.write_table(table, out / f"{name}.parquet")


def tables(out: Path) -> dict[str, pa.Table]:
    return {p.stem: pq.read_table(p, partitioning=None) for p in sorted(out.glob("*.parquet"))}


def largest_difference(one: Path, two: Path) -> float:
    """Of all numbers, in nats; rows, their order and everything else must be equal."""
    a, b = tables(one), tables(two)
    assert a.keys() == b.keys() and len(a) == 6
    largest = 0.0
    for name, column in NUMBERS:
        x, y = (t[name][column].to_pylist() for t in (a, b))
        assert len(x) == len(y) > 5
        assert [v is None for v in x] == [v is None for v in y]
        largest = max(largest, *(abs(u - v) for u, v in zip(x, y, strict=True) if u is not None))
    for name, table in a.items():
        numbers = ["logprob_sum_nats", "loss", "background_loss", "seconds", "rank"]
        kept = [c for c in table.column_names if c not in numbers]
        assert table.select(kept).equals(b[name].select(kept))
    return largest


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that is never broken off."""
    folder = tmp_path_factory.mktemp("one")
    assert together(1, carry_out, folder / "work", folder / "out") == [0]
    return folder / "out"


# ---- training and reading --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_give_the_losses_and_probes_of_one(
    tmp_path: Path, unbroken: Path, processes: int
) -> None:
    assert together(processes, carry_out, tmp_path / "work", tmp_path / "out") == [0] * processes
    assert largest_difference(unbroken, tmp_path / "out") <= NATS


def without_saving(work: Path, out: Path, arch: str, checkpointing: bool) -> None:
    states.save_state = measure.__globals__["save_state"] = lambda *_: None
    carry_out(work, out, arch=arch, checkpointing=checkpointing)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["llama", "gpt_neox"])
def test_checkpointed_activations_change_nothing(tmp_path: Path, arch: str) -> None:
    for name, checkpointing in (("plain", False), ("checkpointed", True)):
        words = (tmp_path / f"work-{name}", tmp_path / name, arch, checkpointing)
        assert together(2, without_saving, *words) == [0, 0]
    assert largest_difference(tmp_path / "plain", tmp_path / "checkpointed") <= NATS


def score_few(count: int, folder: Path) -> None:
    """Targets scored together, then a training step: nobody may be out of step."""
    model = loaded().model.requires_grad_(True)
    parallel.shard(model, torch.device("cpu"))
    wanted = [Target(tuple(range(2, 7 + i % 5)), 2 + i % 2, 5 + i % 5) for i in range(count)]
    one = SharedPass(wanted, range(count), 16, torch.device("cpu"))
    scores = one(model)
    plain = ProbePass(wanted, 16, "cpu")(loaded().model)
    for name in ("logprob_sum", "first_rank", "exact"):
        ours, theirs = (torch.tensor(getattr(s, name)).double() for s in (scores, plain))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=NATS)
    model.train()
    model(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()
    (folder / f"{parallel.rank()}").write_text(str(len(scores.exact)))


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 3, 5, 40])
def test_fewer_targets_than_processes_and_uneven_shares(tmp_path: Path, count: int) -> None:
    assert together(4, score_few, count, tmp_path) == [0] * 4
    assert [(tmp_path / str(r)).read_text() for r in range(4)] == [str(count)] * 4


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 9)), max_size=60), st.integers(1, 9))
def test_targets_are_divided_once_each_and_evenly(
    items: list[tuple[int, int]], processes: int
) -> None:
    weights, groups = [w for w, _ in items], [g for _, g in items]
    shares = divide(weights, groups, processes)
    assert len(shares) == processes
    assert sorted(i for s in shares for i in s) == list(range(len(items)))
    assert all(s == sorted(s) for s in shares)
    homes = {(groups[i], k) for k, s in enumerate(shares) for i in s}
    assert len(homes) == len(set(groups))  # a group has one home
    whole = {g: sum(w for w, h in items if h == g) for g in set(groups)}
    loads = [sum(weights[i] for i in s) for s in shares]
    # the heaviest share was not the heaviest before its last group: no more than that above another
    assert max(loads) - min(loads) <= max(whole.values(), default=0)


# ---- the same batches ------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 6))
def test_every_row_is_trained_on_by_one_process_in_one_micro_batch(
    processes: int, accumulation: int, each: int
) -> None:
    """As `Trainer` cuts a batch: rows to processes, and those of a process to micro-batches."""
    batch_rows = processes * accumulation * each
    rows = torch.arange(batch_rows)
    seen = []
    for rank in range(processes):
        mine = rows[list(parallel.share(batch_rows, processes, rank))]
        pieces = mine.split(-(-len(mine) // accumulation))
        assert [len(p) for p in pieces] == [each] * accumulation
        seen += [int(r) for p in pieces for r in p]
    assert sorted(seen) == list(range(batch_rows))


class _Recorder(torch.nn.Module):
    """A model that writes down the rows that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(600, 600))
        self.rows: list[str] = []

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache
        digests = [hashlib.sha256(r.numpy().tobytes()).hexdigest() for r in input_ids]
        self.rows.append(" ".join(digests))
        return type("Out", (), {"logits": self.table[input_ids]})


@pytest.mark.parametrize("processes", [2, 4])
def test_the_same_plan_gives_the_same_batches(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of three updates, passages among them, over all processes: those of a single one."""

    def trained(size: int, rank: int) -> list[list[str]]:
        from factlife.injection.background import PackedText, documents
        from factlife.injection.batches import InjectionSource, make_heads
        from factlife.injection.measure import encoder_of_many, plain_encoder

        made = plan(accumulation=2)
        encode = plain_encoder(loaded().tokenizer)
        text = PackedText(documents("built-in", 0), encoder_of_many(loaded().tokenizer), 48, 0)
        source = InjectionSource(text, 8, make_heads(made, encode, 0, 48))
        source.seek({"batch": 3, "document": 0, "token": 0})  # the first injection
        monkeypatch.setattr(parallel, "size", lambda: size)
        monkeypatch.setattr(parallel, "rank", lambda: rank)
        monkeypatch.setattr(parallel, "summed", lambda value: value)
        model = _Recorder()
        config = TrainingConfig(steps=9, batch_rows=8, context=48, accumulation=2)
        trainer = loop.Trainer(model, source, config, "cpu")
        steps = []
        for _ in range(3):
            model.rows.clear()
            trainer.advance()
            steps.append([d for rows in model.rows for d in rows.split()])
        return steps

    alone = trained(1, 0)
    shares = [trained(processes, rank) for rank in range(processes)]
    for step in range(3):
        together_ = sorted(d for share in shares for d in share[step])
        assert together_ == sorted(alone[step])
        assert len(set(together_)) == 8


# ---- going on --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 2, 1, 2), (1, 2), (2, 1), (1, 4)])
def test_a_run_goes_on_at_another_number_of_processes(
    tmp_path: Path, unbroken: Path, sizes: tuple[int, ...]
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    for k, processes in enumerate(sizes):
        stop = 0 if k == len(sizes) - 1 else 4 * (k + 1)
        assert together(processes, carry_out, work, out, stop) == [0] * processes
        if stop:
            (saved,) = (work / "states").glob("step-*")
            assert saved.name == f"step-{stop - 1:08d}"
            count = len(list(saved.glob("*.safetensors")))
            assert count == 2 * processes
            assert not list(saved.glob("*.bin")) + list(saved.glob("*metadata*"))
    assert largest_difference(unbroken, out) <= NATS


def killed(work: Path, out: Path, where: str, rank: int) -> None:
    """The run, of which one process is killed: in mid-update, or in the midst of saving."""
    real_sync, real_advance = states.sync, loop.Trainer.advance

    def sync(path: Path) -> None:
        real_sync(path)
        if "step-00000006" in str(path) and parallel.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)

    def advance(self: Any) -> Any:
        if self.step == 6 and parallel.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return real_advance(self)

    if where == "save":
        states.sync = sync  # type: ignore[attr-defined]
    else:
        loop.Trainer.advance = advance  # type: ignore[method-assign]
    carry_out(work, out)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["save", "update"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_costs_no_more_than_the_last_update(
    tmp_path: Path, unbroken: Path, where: str, rank: int
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    codes = together(2, killed, work, out, where, rank)
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] != 0
    saved = [p.name for p in (work / "states").glob("step-*")]
    assert saved == [f"step-{5 if where == 'save' else 6:08d}"]
    assert not out.exists()
    assert together(2, carry_out, work, out) == [0, 0]
    assert not list((work / "states").glob(".*"))
    assert largest_difference(unbroken, out) <= NATS


def refused(work: Path, folder: Path) -> None:
    """All processes must find the damage, not only the one that reads it."""
    with pytest.raises(IntegrityError, match=r"00002-of-00002.safetensors has another checksum"):
        carry_out(work, None)
    (folder / str(parallel.rank())).write_text("refused")


@pytest.mark.slow
def test_a_damaged_part_is_noticed_at_any_number_of_processes(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert together(2, carry_out, work, None, 3) == [0, 0]
    (part,) = (work / "states" / "step-00000002").glob("model-00002-of-00002.safetensors")
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(data)
    for processes in (1, 2, 4):
        seen = tmp_path / f"seen-{processes}"
        seen.mkdir()
        assert together(processes, refused, work, seen) == [0] * processes
        assert len(list(seen.iterdir())) == processes


def test_a_part_that_is_absent_is_noticed(tmp_path: Path) -> None:
    from tests.training.small import tiny_trainer

    trainer = tiny_trainer()
    folder = states.save_state(trainer, tmp_path)
    (folder / states.OPTIMISER).unlink()
    with pytest.raises(IntegrityError, match="is damaged"):
        states.restore_latest(trainer, tmp_path)


def test_a_state_of_another_format_is_refused(tmp_path: Path) -> None:
    from tests.training.small import tiny_trainer

    trainer = tiny_trainer()
    path = states.save_state(trainer, tmp_path) / states.STATE
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UsageError, match="has format 1, this version of factlife writes and reads"):
        states.restore_latest(trainer, tmp_path)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_rows_saved_by_some_are_read_by_others(rows: int, writers: int, readers: int) -> None:
    """Pieces cut as `torch.chunk` does; own_rows of every reader lie end to end."""
    whole = torch.arange(rows)
    pieces = [c for c in whole.chunk(writers) if len(c)]
    read = []
    for rank in range(readers):
        piece = -(-rows // readers)
        wanted = range(min(rank * piece, rows), min((rank + 1) * piece, rows))
        begin = 0
        for p in pieces:
            start, end = max(wanted.start, begin), min(wanted.stop, begin + len(p))
            read += p[start - begin : max(start, end) - begin].tolist()
            begin += len(p)
    assert read == whole.tolist()


# ---- the command line ------------------------------------------------------------------------


def factlife(*words: str | Path, processes: int) -> str:
    """The output of a command, under torchrun where there are several processes."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    done = subprocess.run(
        [sys.executable, "-m", *(launcher if processes > 1 else []), "factlife", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


PROFILE = """
name = "two"
tracks = ["recall", "injection"]
[recall]
templates = "source"
generation = "none"
candidates = false
[injection]
starts = ["late"]
seeds = 1
per_arm = 2
controls = 2
lead_in = 2
injections = 2
interval = 3
after = 2
window = 2
batch_rows = 8
context = 32
peak_lr = 1e-3
heldout_rows = 2
"""


@pytest.mark.slow
def test_the_command_line_trains_on_two_processes(tmp_path: Path) -> None:
    from tests.tiny import save_series

    series = save_series(tmp_path / "series", (0, 10))
    (tmp_path / "two.toml").write_text(PROFILE)
    words = ("run", series, "--profile", tmp_path / "two.toml", "--out")
    logs = []
    for processes in (1, 2):
        out = tmp_path / f"run{processes}"
        assert factlife(*words, out, processes=processes).strip() == str(out)
        part = "tables/training_log/injection_run=late-seed0/part.parquet"
        logs.append(pq.read_table(out / part, partitioning=None)["loss"].to_pylist()[1:])
    assert logs[0] == pytest.approx(logs[1], abs=NATS) and len(logs[0]) == 10


def workers(launcher: int) -> list[int]:
    """Processes that torchrun started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [int(w[5:]) for w in words if w.startswith(b"RANK=")]
        if parent == launcher and ranks:
            found[ranks[0]] = int(folder.name)
    return [found[r] for r in sorted(found)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_command_whose_process_was_killed_goes_on_with_one_process(tmp_path: Path) -> None:
    """Two processes, one of them killed after its first state; the rest is done by a single one."""
    from tests.tiny import save_series

    series = save_series(tmp_path / "series", (0, 10))
    profile = tmp_path / "two.toml"
    profile.write_text(PROFILE + "[execution]\nstate_seconds = 0\n")
    words = ["run", str(series), "--profile", str(profile), "--out"]
    factlife(*words, tmp_path / "whole", processes=1)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "factlife"]
    running = subprocess.Popen(
        [sys.executable, "-m", *launcher, *words, str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    states_ = tmp_path / "out" / ".injection" / "late-seed0" / "states"
    until = time.monotonic() + 600
    while not list(states_.glob("step-0000000[2-9]")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(workers(running.pid)[1], signal.SIGKILL)
    assert running.wait(300) != 0
    (saved,) = states_.glob("step-*")
    assert list(saved.glob("model-0000?-of-00002.safetensors"))
    factlife(*words, tmp_path / "out", processes=1)
    part = "tables/{}/injection_run=late-seed0/part.parquet"
    for table, column in NUMBERS:
        one, two = (
            pq.read_table(tmp_path / run / part.format(table), partitioning=None)
            for run in ("whole", "out")
        )
        assert one["step"].equals(two["step"])
        pairs = zip(one[column].to_pylist(), two[column].to_pylist(), strict=True)
        assert all(a == b or abs(a - b) <= NATS for a, b in pairs)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.small import tiny_trainer

    monkeypatch.setattr(parallel, "size", lambda: 3)
    with pytest.raises(UsageError, match="batch_rows 4 cannot be shared by 3 processes"):
        tiny_trainer()

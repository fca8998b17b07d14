"""One run from start to tables: what is read, what is trained on, and that a broken run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.injection.small import (
    PLACE,
    SETTINGS,
    TOKENIZER,
    corpus,
    facts,
    loaded,
    means,
    plan,
)
from torch.nn import functional

from factlife import schema
from factlife.errors import IntegrityError, UsageError
from factlife.injection import measure as measuring
from factlife.injection.corpus import Corpus, Probe
from factlife.injection.measure import (
    measure,
    plain_encoder,
    precision,
    tokens_before,
)
from factlife.injection.probe import BOUNDARY, ProbePass, encode_probes
from factlife.scoring.generate import greedy
from factlife.scoring.targets import Target, score
from factlife.training.optimiser import make_optimiser
from factlife.training.state import save_state

Tables = Mapping[str, pa.Table]


def run(work: Path, seed: int = 0, source: Corpus | None = None, **changes: Any) -> Tables:
    made = plan(seed, source, **changes)
    return measure(loaded(), made, source or corpus(), facts(), PLACE, means(work))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return run(tmp_path_factory.mktemp("unbroken"))


def same(one: Tables, two: Tables) -> bool:
    """Bit for bit, but for the seconds that a step took."""
    return one.keys() == two.keys() and all(
        _timeless(one[name]).equals(_timeless(two[name])) for name in one
    )


def _timeless(table: pa.Table) -> pa.Table:
    table = table.combine_chunks()
    return table.drop(["seconds"]) if "seconds" in table.schema.names else table


# ---- tables ----------------------------------------------------------------------------------


def test_every_table_keeps_its_contract(unbroken: Tables) -> None:
    assert set(unbroken) == {t.name for t in schema.INJECTION_TABLES}
    for name, table in unbroken.items():
        assert schema.TABLES[name].check(table).num_rows


def test_probes_are_read_at_the_planned_steps(unbroken: Tables) -> None:
    made = plan()
    rows = unbroken["probes"].to_pylist()
    assert sorted({r["step"] for r in rows}) == list(made.schedule.probe_steps)
    assert len(rows) == 24 * len(made.schedule.probe_steps)  # 8 passages x 3 probes
    arms = {a.passage.passage_id: (a.arm, a.half) for a in made.assignments}
    assert all((r["arm"], r["half"]) == arms[r["passage_id"]] for r in rows)


def test_facts_and_background_are_read_at_the_planned_steps(unbroken: Tables) -> None:
    wanted = list(plan().schedule.corruption_steps)
    assert sorted(set(unbroken["injection_recall"]["step"].to_pylist())) == wanted
    log = unbroken["training_log"].to_pylist()
    assert [r["step"] for r in log] == list(range(20))
    assert [r["step"] for r in log if r["background_loss"] is not None] == wanted
    assert log[0]["loss"] is None and all(r["loss"] > 0 for r in log[1:])
    assert log[-1]["tokens"] == 19 * 8 * 48


def test_step_0_is_the_start_revision(unbroken: Tables) -> None:
    model, encode = loaded().model, plain_encoder(TOKENIZER)
    wanted = {}
    for e in encode_probes(corpus().probes, encode, [], None):
        assert e.target is not None
        (wanted[e.probe.probe_id],) = score(model, [e.target], 512)
    for r in unbroken["probes"].to_pylist():
        if r["step"] == 0:
            expected = wanted[r["probe_id"]]
            assert expected is not None
            assert r["logprob_sum_nats"] == pytest.approx(expected.logprob_sum, abs=1e-4)
            assert (r["rank"], r["exact_match"]) == (expected.first_rank, expected.whole)


def test_a_model_learns_what_is_injected_and_not_the_controls(tmp_path: Path) -> None:
    """The intervention that everything else rests on."""
    tables = run(
        tmp_path, study="frequency", frequencies=(1, 24), peak_lr=2e-2, interval=8, after=0
    )
    rows = tables["probes"].to_pylist()
    last = max(r["step"] for r in rows)

    def gain(arm: str) -> float:
        at = [
            np.mean([r["logprob_sum_nats"] for r in rows if (r["step"], r["arm"]) == (step, arm)])
            for step in (3, last)
        ]
        return float(at[1] - at[0])

    assert gain("times-24") > gain("control") + 3.0
    assert gain("times-24") > gain("times-1") + 1.0


def test_seeds_change_the_run_and_nothing_else_does(unbroken: Tables, tmp_path: Path) -> None:
    assert same(run(tmp_path / "again"), unbroken)
    other = run(tmp_path / "other", seed=1)
    assert not other["probes"]["logprob_sum_nats"].equals(unbroken["probes"]["logprob_sum_nats"])


def test_what_a_run_says_of_itself(unbroken: Tables, tmp_path: Path) -> None:
    (row,) = unbroken["injection_runs"].to_pylist()
    assert row["injection_run"] == "late-seed0" and row["plan_sha256"] == plan().sha256
    assert (row["optimiser"], row["precision"], row["balanced"]) == ("fresh", "float32", True)
    assert (row["start_step"], row["start_tokens"], row["flags"]) == (9, 900, [])
    (row,) = run(tmp_path, seeds=2, context=10)["injection_runs"].to_pylist()
    assert row["flags"] == ["unbalanced", "truncated:6"] and not row["balanced"]


def test_a_context_beyond_the_model_is_cut_to_it_and_recorded(tmp_path: Path) -> None:
    (row,) = run(tmp_path, context=500, injections=1, after=0)["injection_runs"].to_pylist()
    assert row["context"] == 128 and "context:128" in row["flags"]


# ---- probes ----------------------------------------------------------------------------------


def with_probe(*probes: Probe) -> Corpus:
    return replace(corpus(), probes=(*corpus().probes, *probes))


def in_pairs(text: str) -> list[int]:
    """Tokens of two characters: whether a boundary holds depends on the length before it."""
    return [hash(text[i : i + 2]) % 1000 for i in range(0, len(text), 2)]


def test_a_probe_whose_target_melts_into_the_prefix_is_left_out_with_its_reason() -> None:
    good, bad = (Probe(p, "p00", "semantic", p, "cd") for p in ("abab", "aba"))
    # "ab|ab" + " c|d" = "ab|ab| c|d"; but "ab|a" + " c|d" is not "ab|a |cd"
    kept, dropped = encode_probes([good, bad], in_pairs, [], None)
    assert kept.reason is None and kept.target is not None and kept.n_tokens == 2
    assert (kept.target.start, kept.target.end) == (2, 4)
    assert dropped.reason == BOUNDARY and dropped.target is None


def test_a_probe_beyond_the_context_is_left_out_with_its_reason(tmp_path: Path) -> None:
    long = Probe("p00.long", "p00", "semantic", "word " * 200 + "is", "Vell0")
    tables = run(tmp_path, source=with_probe(long), injections=1, after=0)
    (row,) = [r for r in tables["probes"].to_pylist() if r["probe_id"] == "p00.long"]
    assert row["reason"].startswith("longer than the model's context")
    assert row["step"] == 0 and row["logprob_sum_nats"] is None and row["exact_match"] is None
    assert "excluded_probes:1" in tables["injection_runs"].to_pylist()[0]["flags"]


def targets(count: int = 40, seed: int = 0) -> list[Target]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        n = int(rng.integers(3, 30))
        start = int(rng.integers(1, n))
        made.append(Target(tuple(rng.integers(2, 500, n).tolist()), start, n))
    return made


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_neox", "olmo2"])
def test_one_pass_gives_what_one_by_one_gives(arch: str) -> None:
    model, wanted = loaded(arch).model, targets()
    got = ProbePass(wanted, 128, "cpu")(model)
    for i, t in enumerate(wanted):
        (one,) = score(model, [t], 10)
        assert one is not None
        assert got.logprob_sum[i] == pytest.approx(one.logprob_sum, abs=1e-4)
        assert (got.first_rank[i], got.exact[i]) == (one.first_rank, one.whole)


def test_exact_is_what_greedy_decoding_gives() -> None:
    """All-argmax under teacher forcing and decoding say the same, for hits and misses alike."""
    model = loaded().model
    made = targets(30)
    decoded = greedy(model, [t.ids[: t.start] for t in made], [t.end - t.start for t in made], 512)
    hits = [
        Target((*t.ids[: t.start], *ids), t.start, t.start + len(ids))
        for t, ids in zip(made, decoded, strict=True)
        if ids
    ]
    near = [replace(t, ids=(*t.ids[:-1], (t.ids[-1] + 1) % 500)) for t in hits]
    for group in (made, hits, near):
        exact = ProbePass(group, 512, "cpu")(model).exact
        for t, found in zip(group, exact, strict=True):
            (ids,) = greedy(model, [t.ids[: t.start]], [t.end - t.start], 512)
            assert bool(found) == (tuple(ids) == t.ids[t.start :])
    assert ProbePass(hits, 512, "cpu")(model).exact.all()
    assert not ProbePass(near, 512, "cpu")(model).exact.any()


def test_probing_leaves_training_alone(tmp_path: Path) -> None:
    """More reading changes no loss: probing draws no random number and moves no weight."""
    sparse = run(tmp_path / "a", dense_every=3, log_points=1)
    every = run(tmp_path / "b", probing="every")
    assert sparse["training_log"]["loss"].equals(every["training_log"]["loss"])
    assert sparse["probes"].num_rows < every["probes"].num_rows


def test_the_background_loss_is_the_mean_over_its_tokens() -> None:
    made = loaded()
    engine = measuring._Run(made, plan(), corpus(), facts(), PLACE, means(Path("nowhere")))
    rows = engine._heldout
    logits = made.model(input_ids=rows).logits
    wanted = functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    assert engine._background_loss() == pytest.approx(wanted.item(), abs=1e-5)


def test_bos_stands_before_probes_as_the_profile_says() -> None:
    from tests.tiny import byte_level_tokenizer, metaspace_tokenizer

    with_bos = byte_level_tokenizer(bos=True)
    assert tokens_before(with_bos, "auto") == [1] and tokens_before(TOKENIZER, "auto") == []
    assert tokens_before(metaspace_tokenizer(), "auto") == [1]
    assert tokens_before(with_bos, "never") == [] and tokens_before(TOKENIZER, "always") == [1]


# ---- going on --------------------------------------------------------------------------------


class StopError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("stop", [1, 4, 9, 19])
def test_a_broken_run_goes_on_to_equal_tables(stop: int, unbroken: Tables, tmp_path: Path) -> None:
    def interrupt(report: Any) -> None:
        if report.step == stop:
            raise StopError

    settings = {"state_seconds": 0.0}
    broken = means(tmp_path, on_step=interrupt, **settings)
    with pytest.raises(StopError):
        measure(loaded(), plan(), corpus(), facts(), PLACE, broken)
    steps: list[int] = []
    again = means(tmp_path, on_step=lambda r: steps.append(r.step), **settings)
    tables = measure(loaded(), plan(), corpus(), facts(), PLACE, again)
    assert same(tables, unbroken)
    assert steps == list(range(stop, 20))  # the state before the step that was broken off


def test_rows_read_after_the_state_are_read_again(unbroken: Tables, tmp_path: Path) -> None:
    """A kill between the rows and the state that they belong to."""

    def break_off(step: int) -> None:
        if step == 6:
            raise StopError

    engine = measuring._Run(
        loaded(), plan(), corpus(), facts(), PLACE, means(tmp_path, state_seconds=0.0)
    )
    flush = engine._rows.flush

    def flush_and_break(step: int) -> None:
        flush(step)
        break_off(step)

    engine._rows.flush = flush_and_break  # type: ignore[method-assign]
    with pytest.raises(StopError):
        engine.train()
    assert list((tmp_path / "rows").glob("*-00000006.parquet"))
    assert same(run(tmp_path), unbroken)


KILLED = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.injection.small import *
from factlife.injection.measure import measure
import pyarrow.parquet as pq, time
work, out = Path(sys.argv[1]), Path(sys.argv[2])
slow = lambda report: time.sleep(0.03)
how = means(work, state_seconds=0.0, on_step=slow)
tables = measure(loaded(), plan(), corpus(), facts(), PLACE, how)
out.mkdir()
for name, table in tables.items():
    pq.write_table(table, out / f"{name}.parquet")
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_to_equal_tables(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    def start(work: str, out: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", KILLED, str(tmp_path / work), str(tmp_path / out)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        return subprocess.Popen(words, env=environment, cwd=Path(__file__).parents[2])

    whole = start("work-a", "whole")
    killed, deadline = start("work-b", "broken"), time.monotonic() + 120
    while not (tmp_path / "work-b" / "states" / "step-00000005").exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "broken").exists()
    assert start("work-b", "broken").wait(timeout=120) == 0
    assert whole.wait(timeout=120) == 0
    for path in (tmp_path / "whole").iterdir():
        one, two = pq.read_table(path), pq.read_table(tmp_path / "broken" / path.name)
        assert _timeless(one).equals(_timeless(two)), path.name


# ---- what goes wrong -------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    broken = loaded()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("inf"))
    with pytest.raises(IntegrityError, match="loss is nan at training step 0: lower peak_lr"):
        measure(broken, plan(), corpus(), facts(), PLACE, means(tmp_path))


def test_a_background_that_ends_says_so(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("\n\n".join(["some words of background text"] * 120))
    with pytest.raises(UsageError, match="exhausted after .* documents: give more text"):
        run(tmp_path / "work", background=str(text))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        MemoryError(),
    ],
)
def test_too_little_memory_says_what_to_do(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(measuring.Trainer, "advance", fail)
    with pytest.raises(
        UsageError, match=r"raise accumulation \(to 2\), lower batch_rows"
    ) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_runtime_errors_are_not_called_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(measuring.Trainer, "advance", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(tmp_path)


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    from tests.tiny import byte_level_tokenizer

    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    one = replace(loaded(), tokenizer=tokenizer)
    with pytest.raises(UsageError, match="no end-of-text token"):
        measure(one, plan(), corpus(), facts(), PLACE, means(tmp_path))


# ---- optimiser -------------------------------------------------------------------------------


def saved_optimiser(folder: Path, arch: str = "llama") -> Path:
    """The optimiser of a model after two steps, as a training state holds it."""
    engine = measuring._Run(loaded(arch), plan(), corpus(), facts(), PLACE, means(folder))
    for _ in range(2):
        engine._trainer.advance()
    return save_state(engine._trainer, folder / "states")


def test_a_given_optimiser_state_is_used(unbroken: Tables, tmp_path: Path) -> None:
    state = saved_optimiser(tmp_path)
    tables = run(tmp_path / "work", optimiser=str(state))
    assert tables["injection_runs"].to_pylist()[0]["optimiser"] == "restored"
    losses = [t["training_log"]["loss"].to_pylist() for t in (tables, unbroken)]
    # equal before the first update; then the moments of two steps make another one
    assert losses[0][1] == losses[1][1] and losses[0][2] != losses[1][2]


@pytest.mark.parametrize("other", ["gpt2", "olmo2"])
def test_the_optimiser_state_of_another_model_is_refused(other: str, tmp_path: Path) -> None:
    state = saved_optimiser(tmp_path, other)
    with pytest.raises(UsageError, match="optimiser state of another model: parameter"):
        run(tmp_path / "work", optimiser=str(state))


def test_an_optimiser_state_of_other_shapes_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = saved_optimiser(tmp_path)
    tensors = load_file(state / "optimiser.safetensors")
    cut = {k: v[:1].clone() if v.ndim else v for k, v in tensors.items()}
    save_file(cut, state / "optimiser.safetensors")
    with pytest.raises(UsageError, match="of another model: .* has shape"):
        run(tmp_path / "work", optimiser=str(state))
    with pytest.raises(UsageError, match="no optimiser state"):
        run(tmp_path / "work2", optimiser=str(tmp_path / "nowhere"))


def test_precision_follows_the_device() -> None:
    assert precision(SETTINGS, "cpu") == "float32" and precision(SETTINGS, "cuda") == "bfloat16"
    assert precision(replace(SETTINGS, precision="bfloat16"), "cpu") == "bfloat16"
    assert make_optimiser(loaded().model.requires_grad_(True), measuring.training_config(
        SETTINGS, 3, 48, "cpu")).param_groups[0]["betas"] == (0.9, 0.95)  # fmt: skip


def test_bfloat16_autocast_keeps_float32_weights(tmp_path: Path, unbroken: Tables) -> None:
    tables = run(tmp_path, precision="bfloat16", injections=1, after=0)
    (row,) = tables["injection_runs"].to_pylist()
    assert row["precision"] == "bfloat16"
    one, two = (t["probes"]["logprob_sum_nats"][0].as_py() for t in (tables, unbroken))
    assert one != two and one == pytest.approx(two, rel=0.02)


@pytest.mark.parametrize("changes", [{"accumulation": 4}, {"checkpointing": True}])
def test_memory_saved_changes_no_loss(
    changes: dict[str, Any], unbroken: Tables, tmp_path: Path
) -> None:
    tables = run(tmp_path, **changes)
    for a, b in zip(
        *(t["training_log"]["loss"].to_pylist()[1:] for t in (tables, unbroken)), strict=True
    ):
        assert a == pytest.approx(b, abs=1e-4)

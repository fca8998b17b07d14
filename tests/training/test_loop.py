"""The loop: what a step is, and that a broken run ends as an unbroken one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.training.small import CONFIG, equal, rows, tiny_trainer, weights
from torch import nn

from factlife.errors import IntegrityError, PartialError, UsageError
from factlife.training import NO_LOSS, Batch, RowSource, StepReport, Trainer, TrainingConfig, train
from factlife.training.folders import atomic_folder, only_writer, sweep


class Bigram(nn.Module):
    """Logits depend on the current token alone, so that loss and gradient are done by hand."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        return SimpleNamespace(logits=self.table[input_ids])


class Fixed:
    """The same batch at every step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def next_batch(self) -> Batch:
        return self.batch

    def position(self) -> dict[str, int]:
        return {}

    def seek(self, position: Any) -> None:
        pass


def stopped_at(trainer: Trainer, step: int, states: Path) -> None:
    """Train with a state every 2 steps until an interruption right after `step`."""

    def interrupt(report: StepReport) -> None:
        if report.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(trainer, states=states, save_every=2, on_step=interrupt)


# ---- one step --------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_next_token() -> None:
    # after token 0 the odds of tokens 0 and 1 are 1:3; after token 1 they are 1:1
    model = Bigram([[0.0, torch.tensor(3.0).log().item()], [0.0, 0.0]])
    batch = Batch(torch.tensor([[0, 1, 0]]))
    trainer = Trainer(model, Fixed(batch), replace(CONFIG, batch_rows=1), "cpu")
    # targets: 1 after 0 (p = 3/4), 0 after 1 (p = 1/2); mean nats = (ln 4/3 + ln 2)/2 = 0.490415
    assert trainer.advance().loss == pytest.approx(0.490415, abs=1e-5)


def test_a_label_without_loss_is_no_target() -> None:
    model = Bigram([[0.0, torch.tensor(3.0).log().item()], [0.0, 0.0]])
    batch = Batch(torch.tensor([[0, 1, 0]]), torch.tensor([[0, 1, NO_LOSS]]))
    trainer = Trainer(model, Fixed(batch), replace(CONFIG, batch_rows=1), "cpu")
    # only 1 after 0 is left: ln 4/3 = 0.287682
    assert trainer.advance().loss == pytest.approx(0.287682, abs=1e-5)


def test_the_gradient_norm_is_reported_before_clipping() -> None:
    # one target, probabilities 1/2: d loss/d logits = (1/2, -1/2), norm √½ = 0.707107
    model = Bigram([[0.0, 0.0], [0.0, 0.0]])
    batch = Batch(torch.tensor([[0, 1]]))
    config = replace(CONFIG, batch_rows=1, clip_norm=0.1)
    assert Trainer(model, Fixed(batch), config, "cpu").advance().gradient_norm == pytest.approx(
        0.707107, abs=1e-5
    )
    unclipped = replace(config, clip_norm=0.0)
    assert Trainer(model, Fixed(batch), unclipped, "cpu").advance().gradient_norm is None


def test_micro_batches_add_up_to_the_batch() -> None:
    whole, parts = tiny_trainer(), tiny_trainer(accumulation=4)
    for _ in range(3):
        one, two = whole.advance(), parts.advance()
        assert one.loss == pytest.approx(two.loss, rel=1e-5)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weight, weights(parts)[name], rtol=1e-3, atol=1e-4)


def test_micro_batches_weigh_targets_not_rows() -> None:
    """Rows with few targets count as much per target as full ones, however they are cut."""
    ids = rows(4)
    labels = ids.clone()
    labels[0, 3:] = NO_LOSS
    losses = []
    for accumulation in (1, 2):
        trainer = tiny_trainer(accumulation=accumulation)
        trainer.source = Fixed(Batch(ids, labels))
        losses.append(trainer.advance().loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_what_a_step_reports() -> None:
    trainer = tiny_trainer()
    first, second = trainer.advance(), trainer.advance()
    # warm-up of 2 to 1e-2; 4 rows x 12 tokens a step; 8 steps in all
    assert (first.learning_rate, second.learning_rate) == pytest.approx((5e-3, 1e-2))
    assert (first.step, first.total_steps, first.tokens) == (1, 8, 48)
    assert (second.step, second.tokens) == (2, 96)
    # 6 of 8 steps are left: three times what the first two took
    assert second.seconds_left == pytest.approx(3 * 96 / second.tokens_per_second, rel=1e-6)


def test_training_learns() -> None:
    trainer = tiny_trainer(steps=90)
    trainer.source = RowSource(rows(4), 4)
    losses = [trainer.advance().loss for _ in range(90)]
    assert losses[-1] < losses[0] / 4


def test_bfloat16_keeps_weights_and_optimiser_in_float32() -> None:
    trainer = tiny_trainer(precision="bfloat16")
    plain = tiny_trainer()
    loss, expected = trainer.advance().loss, plain.advance().loss
    assert loss == pytest.approx(expected, rel=2e-2)
    assert loss != expected
    state = trainer.optimiser.state.values()
    assert {t.dtype for values in state for t in values.values()} == {torch.float32}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


# ---- determinism and resume ------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_two_runs_are_equal_and_leave_the_global_generator_alone(dropout: float) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two = tiny_trainer(dropout=dropout), tiny_trainer(dropout=dropout)
    train(one)
    torch.rand(5)  # what others draw in between changes nothing
    train(two)
    assert equal(weights(one), weights(two))
    torch.manual_seed(3)
    train(tiny_trainer(dropout=dropout))
    assert torch.equal(torch.rand(2), expected)


def test_dropout_follows_the_seed() -> None:
    one, two = tiny_trainer(dropout=0.2), tiny_trainer(dropout=0.2, seed=1)
    train(one)
    train(two)
    assert not equal(weights(one), weights(two))


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize(("arch", "dropout"), [("olmo2", 0.2), ("gpt2", 0.0)])
def test_a_resumed_run_ends_bitwise_where_an_unbroken_one_does(
    tmp_path: Path, arch: str, dropout: float, step: int
) -> None:
    unbroken = tiny_trainer(arch, dropout)
    train(unbroken)
    stopped_at(tiny_trainer(arch, dropout), step, tmp_path)
    again, reports = tiny_trainer(arch, dropout), []
    train(again, states=tmp_path, save_every=2, on_step=reports.append)
    assert equal(weights(again), weights(unbroken))
    assert (again.step, again.tokens) == (unbroken.step, unbroken.tokens)
    for parameter, other in zip(again.model.parameters(), unbroken.model.parameters(), strict=True):
        ours, theirs = again.optimiser.state[parameter], unbroken.optimiser.state[other]
        assert equal(ours, theirs)
    # a state after every second step: steps up to it are not taken again; the interrupted step
    # itself was reported but not yet saved
    saved = (step - 1) // 2 * 2
    assert [r.step for r in reports] == list(range(saved + 1, 9))


def test_only_the_newest_state_is_kept_and_it_holds_no_pickle(tmp_path: Path) -> None:
    train(tiny_trainer(), states=tmp_path, save_every=3)
    kept = [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))]
    folder = "step-00000006"
    files = ["model.safetensors", "optimiser.safetensors", "state.json"]
    assert kept == [folder, *(f"{folder}/{name}" for name in files)]


def test_checkpoints_come_at_their_steps_and_at_step_0(tmp_path: Path) -> None:
    seen: list[int] = []
    train(
        tiny_trainer(),
        checkpoint_steps={0, 3, 8},
        on_checkpoint=lambda t: seen.append(t.step),
        states=tmp_path,
    )
    assert seen == [0, 3, 8]
    train(
        tiny_trainer(),
        checkpoint_steps={0, 3, 8},
        on_checkpoint=lambda t: seen.append(t.step),
        states=tmp_path,
    )
    assert seen == [0, 3, 8, 8]


# ---- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(bad: float) -> None:
    trainer = tiny_trainer()
    trainer.advance()
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[2:] = bad
    before = weights(trainer)["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(IntegrityError, match=r"loss is nan at training step 1: lower peak_lr"):
        trainer.advance()
    assert torch.equal(weights(trainer)["model.layers.0.mlp.up_proj.weight"], before)


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    trainer = tiny_trainer()
    weight = trainer.model.get_input_embeddings().weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(IntegrityError, match=r"gradient norm is (nan|inf) at training step 0"):
        trainer.advance()


def test_a_state_with_other_settings_is_refused(tmp_path: Path) -> None:
    stopped_at(tiny_trainer(), 5, tmp_path)
    with pytest.raises(UsageError, match=r"peak_lr: 0\.01 there, 0\.5 now"):
        train(tiny_trainer(peak_lr=0.5), states=tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "state.json"])
def test_a_damaged_state_is_said_so(tmp_path: Path, name: str) -> None:
    stopped_at(tiny_trainer(), 5, tmp_path)
    (tmp_path / "step-00000004" / name).write_bytes(b"{")
    with pytest.raises(IntegrityError, match="is damaged"):
        train(tiny_trainer(), states=tmp_path)


def test_an_unfinished_state_counts_as_none(tmp_path: Path) -> None:
    stopped_at(tiny_trainer(), 5, tmp_path)
    leftover = tmp_path / ".step-00000006.99.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    trainer = tiny_trainer()
    train(trainer, states=tmp_path)
    assert trainer.step == 8
    assert not leftover.exists()


def test_a_state_says_where_it_stands(tmp_path: Path) -> None:
    stopped_at(tiny_trainer(), 5, tmp_path)
    header = json.loads((tmp_path / "step-00000004" / "state.json").read_text("utf-8"))
    assert header["step"] == header["position"]["batch"] == 4
    assert header["tokens"] == 4 * 48
    assert TrainingConfig(**header["config"]) == CONFIG


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half() -> None:
        with atomic_folder(tmp_path / "there") as folder:
            (folder / "a").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "there") as folder:
        (folder / "a").write_text("x")
        assert not (tmp_path / "there").exists()
    assert (tmp_path / "there" / "a").read_text() == "x"


def test_a_disk_that_refuses_is_partial(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PartialError, match="cannot write"), atomic_folder(tmp_path / "file" / "x"):
        pass


def test_sweeping_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.1.tmp").mkdir()
    (tmp_path / ".b.2.tmp").write_text("x")
    (tmp_path / "keep").mkdir()
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["keep"]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with (
        only_writer(tmp_path),
        pytest.raises(UsageError, match="another process"),
        only_writer(tmp_path),
    ):
        pass
    with only_writer(tmp_path):
        assert (tmp_path / ".lock").exists()

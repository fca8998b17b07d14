"""Save and resume: weights and optimiser as safetensors, the rest as JSON; no pickles.

STATES/step-00000123/model.safetensors       weights, tied ones once
STATES/step-00000123/optimiser.safetensors   `<parameter>/<name of its state>`
STATES/step-00000123/state.json              step, tokens, position in the text, settings
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from factlife.errors import IntegrityError, UsageError
from factlife.training import parallel
from factlife.training.folders import atomic_folder, sweep

if TYPE_CHECKING:
    from factlife.training.loop import Trainer

FORMAT = 1
MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"


def save_state(trainer: Trainer, states: Path) -> Path:
    """Write the trainer's state as the newest one; older ones are removed afterwards.

    Raises:
        PartialError: the disk refuses the write; the older state is kept.
    """
    folder = states / f"step-{trainer.step:08d}"
    parallel.reshard(trainer.model)
    sharded = _gathered(trainer) if parallel.size() > 1 else None
    optimiser = _optimiser_tensors(trainer)
    if parallel.rank():
        parallel.barrier()
        return folder
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            if sharded is None:
                save_model(trainer.model, str(temporary / MODEL))
            else:
                save_file(sharded, temporary / MODEL)
            save_file(optimiser, temporary / OPTIMISER)
            (temporary / STATE).write_text(json.dumps(_header(trainer), indent=2), "utf-8")
    for older in _saved(states):
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)
    parallel.barrier()
    return folder


def _gathered(trainer: Trainer) -> dict[str, Tensor]:
    """All parameters and buffers of a sharded model, whole, tied ones once."""
    named = [*trainer.model.named_parameters(), *trainer.model.named_buffers()]
    return {name: parallel.full(value.detach()).contiguous() for name, value in named}


def _scatter(trainer: Trainer, file: Path) -> None:
    """Put whole tensors into a sharded model."""
    tensors = load_file(file, device=str(trainer.device))
    parallel.reshard(trainer.model)
    with torch.no_grad():
        for name, value in [*trainer.model.named_parameters(), *trainer.model.named_buffers()]:
            value.copy_(parallel.place_like(tensors[name], value))


def restore_latest(trainer: Trainer, states: Path) -> bool:
    """Put the newest saved state into the trainer; False where none is saved.

    Raises:
        UsageError: the state was saved with other training settings.
        IntegrityError: the state's files are damaged.
    """
    sweep(states)
    saved = _saved(states)
    if saved:
        _restore(trainer, saved[-1])
    return bool(saved)


def load_optimiser(trainer: Trainer, file: Path) -> None:
    """Put a saved optimiser (OPTIMISER of a training state) into a trainer at step 0.

    Raises:
        UsageError: no such file, or the state of another model.
        IntegrityError: the file is damaged.
    """
    if not file.is_file():
        raise UsageError(f"no optimiser state {file}: give a folder that holds {OPTIMISER}")
    try:
        tensors = load_file(file, device=str(trainer.device))
    except SafetensorError as error:
        raise IntegrityError(f"{file} is damaged ({error}); save the state again") from error
    _refuse_foreign_optimiser(_trainable(trainer.model), tensors, file)
    _load_optimiser(trainer, tensors)


def _refuse_foreign_optimiser(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], file: Path
) -> None:
    named = {name.rsplit("/", 1)[0] for name in tensors}
    if named != set(parameters):
        other = sorted(named ^ set(parameters))[0]
        raise UsageError(
            f"{file} is the optimiser state of another model: parameter {other!r} is in one of "
            "them only; give the state that was saved beside the start revision"
        )
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        shape = parameters[name].shape
        if key != "step" and value.shape != shape:
            raise UsageError(
                f"{file} is the optimiser state of another model: {name} has shape "
                f"{list(value.shape)} there, {list(shape)} in the model"
            )


def _saved(states: Path) -> list[Path]:
    return sorted(states.glob("step-*"))


def _header(trainer: Trainer) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "step": trainer.step,
        "tokens": trainer.tokens,
        "position": trainer.source.position(),
        "config": asdict(trainer.config),
        "sharded": parallel.size() > 1,
    }


def _restore(trainer: Trainer, folder: Path) -> None:
    try:
        header = json.loads((folder / STATE).read_text("utf-8"))
        _refuse_other_settings(header["config"], asdict(trainer.config), folder)
        _refuse_other_number(sharded=header.get("sharded", False), folder=folder)
        if parallel.size() > 1:
            _scatter(trainer, folder / MODEL)
        else:
            load_model(trainer.model, folder / MODEL, device=str(trainer.device))
        _load_optimiser(trainer, load_file(folder / OPTIMISER, device=str(trainer.device)))
        trainer.source.seek(header["position"])
        trainer.step, trainer.tokens = header["step"], header["tokens"]
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise IntegrityError(
            f"training state {folder} is damaged ({error}); remove {folder.parent} to begin anew"
        ) from error


def _refuse_other_settings(there: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    names = sorted(k for k in {*there, *now} if there.get(k) != now.get(k))
    if names:
        detail = "; ".join(f"{k}: {there.get(k)} there, {now.get(k)} now" for k in names)
        raise UsageError(
            f"training state {folder} was saved with other settings ({detail}); use those, or "
            "choose another folder"
        )


def _refuse_other_number(*, sharded: bool, folder: Path) -> None:
    """A state of one process names its tensors otherwise than one of several."""
    if sharded != (parallel.size() > 1):
        one, other = ("several", "one process") if sharded else ("one process", "several")
        raise UsageError(
            f"training state {folder} was saved by {one} and cannot be gone on with by {other}: "
            f"start as before, or remove {folder.parent}"
        )


def _optimiser_tensors(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": parallel.full(value.detach())
        for name, parameter in _trainable(trainer.model).items()
        for key, value in trainer.optimiser.state.get(parameter, {}).items()
    }


def _load_optimiser(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    parameters = _trainable(trainer.model)
    trainer.optimiser.state.clear()
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        like = parameters[name] if key != "step" else value
        trainer.optimiser.state[parameters[name]][key] = parallel.place_like(value, like)


def _trainable(model: nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}

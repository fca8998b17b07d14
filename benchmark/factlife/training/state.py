"""Save and resume: weights and optimiser as safetensors, the rest as JSON; no pickles.

STATES/step-00000123/model.safetensors       parameters (tied ones once) and saved buffers
STATES/step-00000123/optimiser.safetensors   `<parameter>/<name of its state>`
STATES/step-00000123/state.json              step, tokens, position in the text, settings, checksums

Of n > 1 processes each writes its own rows of every tensor, into model-00001-of-0000n.safetensors
and so on. Pieces laid end to end in the order of the files are the whole tensor, so that any
number of processes can go on; each reads no more than its rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from factlife.errors import IntegrityError, PartialError, UsageError
from factlife.store import sha256_file
from factlife.training import parallel
from factlife.training.folders import atomic_folder, sweep, sync

if TYPE_CHECKING:
    from factlife.training.loop import Trainer

FORMAT = 2
MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"


# ---- saving ----------------------------------------------------------------------------------


def save_state(trainer: Trainer, states: Path) -> Path:
    """Write the trainer's state as the newest one; older ones are removed afterwards.

    Raises:
        PartialError: the disk refuses the write; the older state is kept.
    """
    folder = states / f"step-{trainer.step:08d}"
    parallel.reshard(trainer.model)
    if not parallel.from_first(folder.exists()):
        with _common_folder(folder) as temporary:
            sums = _write_parts(trainer, temporary)
            if not parallel.rank():
                header = json.dumps({**_header(trainer), "parts": sums}, indent=2)
                (temporary / STATE).write_text(header, "utf-8")
    if not parallel.rank():
        for older in _saved(states):
            if older != folder:
                shutil.rmtree(older, ignore_errors=True)
    parallel.barrier()
    return folder


@contextmanager
def _common_folder(folder: Path) -> Iterator[Path]:
    """As `atomic_folder`: the first process makes and renames it, all of them write into it."""
    if parallel.rank():
        try:
            yield parallel.from_first(None)
        except OSError as error:
            raise PartialError(f"cannot write {folder}: {error.strerror or error}") from error
        return
    with atomic_folder(folder) as temporary:
        yield parallel.from_first(temporary)


def _write_parts(trainer: Trainer, folder: Path) -> dict[str, str]:
    """Write this process's pieces -> sha256 of every process's files.

    Raises:
        OSError: the disk refuses those of any process.
    """
    sums, problem = {}, None
    try:
        for stem, tensors in ((MODEL, _model_tensors(trainer.model)), (OPTIMISER, _state(trainer))):
            path = folder / _part(stem, parallel.rank(), parallel.size())
            save_file(_own_pieces(tensors), path)
            sync(path)
            sums[path.name] = sha256_file(path)
    except (OSError, SafetensorError) as error:
        problem = str(getattr(error, "strerror", None) or error)
    found = parallel.gathered((sums, problem))
    if problems := [p for _, p in found if p]:
        raise OSError(None, problems[0])
    return {name: value for sums, _ in found for name, value in sums.items()}


def _part(stem: str, rank: int, size: int) -> str:
    """Name of a process's file."""
    name, ending = stem.split(".")
    return stem if size == 1 else f"{name}-{rank + 1:05d}-of-{size:05d}.{ending}"


def _own_pieces(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's rows; what is not sharded is the first one's."""
    found = {}
    for name, value in tensors.items():
        sharded = parallel.own(value) is not value
        if (sharded and parallel.own(value).numel()) or (not sharded and not parallel.rank()):
            found[name] = parallel.own(value.detach()).contiguous()
    return found


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that belong to a checkpoint."""
    kept = model.state_dict().keys()
    buffers = {name: b for name, b in model.named_buffers() if name in kept}
    return {**dict(model.named_parameters()), **buffers}


def _state(trainer: Trainer) -> dict[str, Tensor]:
    """The optimiser's tensors as `<parameter>/<name of its state>`."""
    return {
        f"{name}/{key}": value
        for name, parameter in _trainable(trainer.model).items()
        for key, value in trainer.optimiser.state.get(parameter, {}).items()
    }


# ---- reading ---------------------------------------------------------------------------------


class _Pieces:
    """Tensors whose rows may lie in several files, in the order of the files."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises SafetensorError or OSError for a damaged or absent file."""
        opened: Any = safe_open  # its stub has no types
        self._files = [opened(f, framework="pt") for f in files]
        self._where: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
        for i, file in enumerate(self._files):
            for name in file.keys():  # noqa: SIM118
                shape = tuple(file.get_slice(name).get_shape())
                self._where.setdefault(name, []).append((i, shape))

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor. Raises KeyError."""
        shapes = [shape for _, shape in self._where[name]]
        return (sum(s[0] for s in shapes), *shapes[0][1:]) if shapes[0] else ()

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill a tensor, or this process's rows of a sharded one.

        Raises:
            KeyError: no such tensor.
            ValueError: one of another shape.
        """
        if self.shape(name) != tuple(target.shape):
            raise ValueError(f"{name} is {self.shape(name)} there, {tuple(target.shape)} here")
        local = parallel.own(target)
        if not target.dim():
            local.copy_(self._files[self._where[name][0][0]].get_tensor(name))
            return
        wanted, begin = parallel.own_rows(target), 0
        for i, shape in self._where[name]:
            start, end = max(wanted.start, begin), min(wanted.stop, begin + shape[0])
            if start < end:
                piece = self._files[i].get_slice(name)[start - begin : end - begin]
                local[start - wanted.start : end - wanted.start].copy_(piece)
            begin += shape[0]


def restore_latest(trainer: Trainer, states: Path) -> bool:
    """Put the newest saved state into the trainer; False where none is saved.

    Raises:
        UsageError: the state was saved with other training settings.
        IntegrityError: the state's files are damaged.
    """
    if not parallel.rank():
        sweep(states)
    saved = parallel.from_first(_saved(states)[-1:])
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
        pieces = _Pieces([file])
    except SafetensorError as error:
        raise IntegrityError(f"{file} is damaged ({error}); save the state again") from error
    _refuse_foreign_optimiser(_trainable(trainer.model), pieces, file)
    _load_optimiser(trainer, pieces)


def _refuse_foreign_optimiser(
    parameters: Mapping[str, nn.Parameter], pieces: _Pieces, file: Path
) -> None:
    named = {name.rsplit("/", 1)[0] for name in pieces.names()}
    if named != set(parameters):
        other = sorted(named ^ set(parameters))[0]
        raise UsageError(
            f"{file} is the optimiser state of another model: parameter {other!r} is in one of "
            "them only; give the state that was saved beside the start revision"
        )
    for path in sorted(pieces.names()):
        name, key = path.rsplit("/", 1)
        shape = parameters[name].shape
        if key != "step" and pieces.shape(path) != tuple(shape):
            raise UsageError(
                f"{file} is the optimiser state of another model: {name} has shape "
                f"{list(pieces.shape(path))} there, {list(shape)} in the model"
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
    }


def _restore(trainer: Trainer, folder: Path) -> None:
    """All processes together; where one finds damage, all of them raise."""
    try:
        header = json.loads((folder / STATE).read_text("utf-8"))
        _refuse_other_format(header["format"], folder)
        _refuse_other_settings(header["config"], asdict(trainer.config), folder)
        problem = None
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = str(error)
    _refuse_damage(problem, folder)
    _refuse_damage(_wrong_sum(folder, header), folder)
    try:
        _fill(trainer, folder, header)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        problem = str(error)
    _refuse_damage(problem, folder)


def _refuse_damage(problem: str | None, folder: Path) -> None:
    found = [p for p in parallel.gathered(problem) if p]
    if found:
        raise IntegrityError(
            f"training state {folder} is damaged ({found[0]}); remove {folder.parent} to begin anew"
        )


def _wrong_sum(folder: Path, header: Mapping[str, Any]) -> str | None:
    """The first damaged file among this process's share of them."""
    try:
        for name, expected in sorted(header["parts"].items())[parallel.rank() :: parallel.size()]:
            if sha256_file(folder / name) != expected:
                return f"{name} has another checksum than when it was written"
    except (OSError, AttributeError, KeyError) as error:
        return str(error)
    return None


def _fill(trainer: Trainer, folder: Path, header: Mapping[str, Any]) -> None:
    """Put a state's tensors and place into the trainer."""
    names = sorted(header["parts"])
    model = _Pieces([folder / n for n in names if n.startswith(Path(MODEL).stem)])
    optimiser = _Pieces([folder / n for n in names if n.startswith(Path(OPTIMISER).stem)])
    parallel.reshard(trainer.model)
    with torch.no_grad():
        for name, value in _model_tensors(trainer.model).items():
            model.read_into(name, value)
    _load_optimiser(trainer, optimiser)
    trainer.source.seek(header["position"])
    trainer.step, trainer.tokens = header["step"], header["tokens"]


def _refuse_other_format(there: int, folder: Path) -> None:
    if there != FORMAT:
        raise UsageError(
            f"training state {folder} has format {there}, this version of factlife writes and "
            f"reads format {FORMAT}: remove {folder.parent} to begin anew"
        )


def _refuse_other_settings(there: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    names = sorted(k for k in {*there, *now} if there.get(k) != now.get(k))
    if names:
        detail = "; ".join(f"{k}: {there.get(k)} there, {now.get(k)} now" for k in names)
        raise UsageError(
            f"training state {folder} was saved with other settings ({detail}); use those, or "
            "choose another folder"
        )


def _load_optimiser(trainer: Trainer, pieces: _Pieces) -> None:
    parameters = _trainable(trainer.model)
    trainer.optimiser.state.clear()
    for path in sorted(pieces.names()):
        name, key = path.rsplit("/", 1)
        parameter = parameters[name].detach()
        scalar = not pieces.shape(path)
        place = torch.zeros((), device=trainer.device) if scalar else torch.zeros_like(parameter)
        pieces.read_into(path, place)
        trainer.optimiser.state[parameters[name]][key] = place


def _trainable(model: nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}

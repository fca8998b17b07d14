"""Many devices under torchrun: one process a device, parameters sharded over all (FSDP2).

Every process builds the whole batch and trains on its share of the rows; the loss is divided by
the targets of the whole batch. The same plan therefore gives the same batches at any world size,
and losses that differ by rounding alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

T = TypeVar("T")

_PATIENCE = timedelta(days=1)  # the others wait while the first process measures other tracks


def rank() -> int:
    """This process's number; 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> bool:
    """Whether torchrun has started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_device(device: torch.device) -> torch.device:
    """The accelerator of this process's local rank; a CPU stays one."""
    if device.type == "cpu" or not launched():
        return device
    return torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """The processes that torchrun started, as one group, while open; nothing without torchrun."""
    if not launched() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def shard(
    model: Any, device: torch.device, fill: Callable[[nn.Module], None] | None = None
) -> None:
    """Shard a model in place: each of its blocks, then the rest.

    A block is moved to the device as it is sharded, so that a model that lies on the CPU is never
    whole on a device.

    Args:
        fill: reads the weights of a block that has none yet, so that none is whole on the CPU.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (size(),))
    for part in (*_blocks(model), model):
        if fill is not None:
            fill(part)
        fully_shard(part, mesh=mesh)
    model.to(device)  # buffers of modules without parameters


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks: the list of modules that holds most parameters."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()), default=nn.ModuleList())


def reshard(model: nn.Module) -> None:
    """Sharded parameters back in their places: a forward without a backward leaves whole ones."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def full(value: Tensor) -> Tensor:
    """The whole tensor of a sharded one; all processes call this together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own(value: Tensor) -> Tensor:
    """This process's rows of a sharded tensor, none perhaps; another tensor as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def own_rows(value: Tensor) -> slice:
    """Which rows of the whole tensor `own` holds: FSDP2 cuts as `torch.chunk` does."""
    if not isinstance(value, DTensor):
        return slice(0, value.shape[0])
    piece = -(-value.shape[0] // size())
    start = min(rank() * piece, value.shape[0])
    return slice(start, min(start + piece, value.shape[0]))


def share(rows: int, among: int, which: int) -> range:
    """The rows of a batch that process `which` of so many trains on."""
    return range(which, rows, among)


def summed(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if size() > 1:
        dist.all_reduce(value)
    return value


def most(value: int) -> int:
    """The largest of all processes' numbers."""
    return max(gathered(value))


def gathered(value: T) -> list[T]:
    """What each process has, in order, in all of them."""
    if size() == 1:
        return [value]
    held: list[Any] = [None] * size()
    dist.all_gather_object(held, value)
    return held


def idle(model: Any, forwards: int, device: torch.device) -> None:
    """Take part in forwards of the others: with a sharded model nobody can run one alone."""
    for _ in range(forwards):
        model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device), use_cache=False)


def from_first(value: Any) -> Any:
    """What the first process has, in all of them."""
    if size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def barrier() -> None:
    """Wait for all processes."""
    if size() > 1:
        dist.barrier()

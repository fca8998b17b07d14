"""Many devices under torchrun: one process a device, parameters sharded over all (FSDP2).

Every process builds the whole batch and trains on its share of the rows; the loss is divided by
the targets of the whole batch. The same plan therefore gives the same batches at any world size,
and losses that differ by rounding alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

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


def shard(model: Any, device: torch.device) -> None:
    """Shard a model in place: each of its blocks, then the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (size(),))
    model.to(device)
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


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


def place_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as another one is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements)


def summed(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if size() > 1:
        dist.all_reduce(value)
    return value


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

"""Several processes as torchrun would start them, forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from factlife.training import parallel

PRELOAD = ["tests.injection.small", "factlife.injection.measure", "torch.distributed.fsdp"]
PATIENCE = 600  # seconds


def together(n: int, call: Callable[..., Any], *arguments: Any) -> list[int | None]:
    """Exit codes of n processes that run `call(*arguments)`; a module's own function it must be.

    When one has failed the others are ended, as torchrun does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = _free_port()
    started = [
        context.Process(target=_child, args=(rank, n, port, call, arguments)) for rank in range(n)
    ]
    for process in started:
        process.start()
    _wait(started)
    return [p.exitcode for p in started]


def _wait(started: Sequence[BaseProcess]) -> None:
    until = time.monotonic() + PATIENCE
    while any(p.is_alive() for p in started):
        if any(p.exitcode not in (None, 0) for p in started) or time.monotonic() > until:
            time.sleep(1)  # the others may want to say what they saw
            for p in started:
                p.kill()
        time.sleep(0.02)
    for p in started:
        p.join()


def _child(
    rank: int, n: int, port: int, call: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        with parallel.group(torch.device("cpu")):
            call(*arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])

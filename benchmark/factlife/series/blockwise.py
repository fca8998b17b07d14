"""A checkpoint that is filled block by block, so that it is never whole in memory.

1. The model is built with parameters that have shapes and no memory (`meta`); buffers are real.
2. Whoever shards it calls `Loaded.fill` with one block after another, sharding each, then with the
   whole model for what is outside of blocks.

Where the files' tensors are not exactly the model's parameters (see `swap`: converted experts,
pickles, names of other code) the checkpoint is loaded whole, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from factlife.config import Model as ModelConfig
from factlife.series.integrity import weight_files
from factlife.series.loading import (
    Loaded,
    check_config,
    check_vocabulary,
    describe,
    load,
    load_tokenizer,
)
from factlife.series.swap import state_names


def load_blockwise(
    folder: Path,
    config: ModelConfig,
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    tokenizer: Any = None,
) -> Loaded:
    """Load a checkpoint that is to be sharded; `fill` is None where it is whole, on the CPU.

    Raises:
        As `loading.load`.
    """
    leave = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    raw = check_config(folder, trust_remote_code=trust_remote_code)
    tokenizer = tokenizer or load_tokenizer(folder, trust_remote_code=trust_remote_code)
    check_vocabulary(tokenizer, raw, folder)
    files = weight_files(folder, allow_pickle=allow_pickle)
    model = None if trust_remote_code else _empty(folder, config)
    filler = None if model is None else _Filler.of(model, files)
    if model is None or filler is None:
        return load(folder, config, torch.device("cpu"), tokenizer=tokenizer, **leave)
    model.eval().requires_grad_(False)
    return replace(describe(model, tokenizer, config.dtype), fill=filler.fill)


def _empty(folder: Path, config: ModelConfig) -> Any:
    """The model without memory for its parameters; None where it cannot be built so."""
    hf_config = AutoConfig.from_pretrained(folder)
    for attention in (config.attention, "eager"):  # as `loading.load` does
        settings = {"attn_implementation": attention, "dtype": getattr(torch, config.dtype)}
        try:
            with _without_memory():
                return AutoModelForCausalLM.from_config(hf_config, **settings)
        except (ValueError, RuntimeError, NotImplementedError):
            continue
    return None


@contextmanager
def _without_memory() -> Iterator[None]:
    """Parameters of modules that are built while this is open have a shape and no memory."""
    real = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        real(self, name, param)
        if param is not None and not param.is_meta:
            empty = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
            self._parameters[name] = empty

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = real  # type: ignore[method-assign]


class _Filler:
    """Gives parameters their memory and values when they are asked for."""

    def __init__(self, model: nn.Module, sources: dict[int, tuple[Path, str]]) -> None:
        self._sources = sources  # id of an empty parameter -> file and name in it
        self._owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
                self._owners.setdefault(id(p), []).append((module, name))
        self._kept = list(model.parameters())  # while they live nothing else takes their ids

    @classmethod
    def of(cls, model: Any, files: tuple[Path, ...]) -> _Filler | None:
        """None where the files' tensors are not exactly the model's parameters."""
        found = state_names(model, files)
        if found is None:
            return None
        state, sources = model.state_dict(keep_vars=True), {}
        for file in files:
            with safe_open(file, framework="pt") as f:
                for name in set(f.keys()) & found.keys():
                    place = state[found[name]]
                    if list(place.shape) != f.get_slice(name).get_shape() or id(place) in sources:
                        return None
                    sources[id(place)] = (file, name)
        # a buffer that is saved would have to be filled as well: no architecture here has one
        exact = set(sources) == {id(p) for p in model.parameters()} == set(map(id, state.values()))
        return cls(model, sources) if exact else None

    @torch.no_grad()
    def fill(self, module: nn.Module) -> None:
        """Read what is still empty in a module, its blocks among it, on the CPU."""
        for p in list(module.parameters()):
            if not p.is_meta:
                continue
            file, name = self._sources[id(p)]
            with safe_open(file, framework="pt") as f:
                value = f.get_tensor(name).to(p.dtype, copy=True)
            whole = nn.Parameter(value, requires_grad=p.requires_grad)
            for owner, attribute in self._owners[id(p)]:
                owner._parameters[attribute] = whole

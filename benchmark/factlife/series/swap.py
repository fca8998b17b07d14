"""One module for a whole series: the first checkpoint builds it, the others are copied into it.

1. The first checkpoint, and any whose config differs, goes through `from_pretrained`.
2. The others' tensors are renamed by transformers' own rules for the architecture and copied
   into the parameters that are there, cast to their dtype.
3. Where that is not certain to give what `from_pretrained` gives (a tensor needs converting or
   has another shape, names differ from those the module was built with, two names share one
   parameter), the checkpoint is loaded anew.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from factlife.config import Model as ModelConfig
from factlife.series.integrity import TOKENIZER_FILES, weight_files
from factlife.series.loading import (
    Loaded,
    check_config,
    check_vocabulary,
    free_memory,
    load,
    load_tokenizer,
)

# Of config.json: what says who wrote it, not what the model is.
_NO_MATTER = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")


class Module:
    """Loads the checkpoints of a series one after another.

    A `Loaded` is valid until the next call: its model is the same object.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        *,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        self._config, self._device = config, device
        self._trust, self._pickle = trust_remote_code, allow_pickle
        self._loaded: Loaded | None = None
        self._built_from: dict[str, Any] = {}
        self._places: dict[str, torch.Tensor] = {}  # tensor name in the files -> parameter
        self._ignored: frozenset[str] = frozenset()
        self._tokenizers: dict[str, Any] = {}
        self.swapped = 0  # checkpoints that were copied in place

    def load(self, folder: Path, tokenizer_folder: Path | None = None) -> Loaded:
        """Load a checkpoint folder. Raises as `loading.load`."""
        raw = check_config(folder, trust_remote_code=self._trust)
        tokenizer = self._tokenizer(tokenizer_folder or folder)
        check_vocabulary(tokenizer, raw, folder)
        if self._loaded is not None and _matters(raw) == self._built_from and self._copy(folder):
            self.swapped += 1
            self._loaded = _with_tokenizer(self._loaded, tokenizer)
            return self._loaded
        self._loaded, self._places = None, {}  # before a second module takes its memory
        self._loaded = load(
            folder,
            self._config,
            self._device,
            trust_remote_code=self._trust,
            allow_pickle=self._pickle,
            tokenizer=tokenizer,
        )
        self._built_from = _matters(raw)
        self._places, self._ignored = _places(self._loaded.model, folder)
        return self._loaded

    def release(self) -> None:
        """Give the model's memory back; the next checkpoint is built anew."""
        self._loaded, self._places, self._built_from = None, {}, {}
        free_memory(self._device)

    def _tokenizer(self, folder: Path) -> Any:
        """The folder's tokenizer; equal files are loaded once."""
        digest = hashlib.sha256()
        for place in (folder, folder.parent):
            files = [place / n for n in (*TOKENIZER_FILES, "merges.txt", "special_tokens_map.json")]
            for file in (f for f in files if f.is_file()):
                digest.update(file.name.encode() + file.read_bytes())
            if digest.digest() != hashlib.sha256().digest():
                break
        key = digest.hexdigest()
        if key not in self._tokenizers:
            self._tokenizers[key] = load_tokenizer(folder, trust_remote_code=self._trust)
        return self._tokenizers[key]

    @torch.no_grad()
    def _copy(self, folder: Path) -> bool:
        """Copy a checkpoint's tensors into the module; False where that is not certain."""
        files = weight_files(folder, allow_pickle=self._pickle)
        if not self._places or any(f.suffix != ".safetensors" for f in files):
            return False
        shapes: dict[str, list[int]] = {}
        for file in files:
            with safe_open(file, framework="pt") as f:
                shapes |= {k: f.get_slice(k).get_shape() for k in f.keys()}  # noqa: SIM118
        wanted = {k: list(p.shape) for k, p in self._places.items()}
        if {k: s for k, s in shapes.items() if k not in self._ignored} != wanted:
            return False
        for file in files:
            with safe_open(file, framework="pt") as f:
                for name in set(f.keys()) & wanted.keys():
                    self._places[name].copy_(f.get_tensor(name))
        return True


def _matters(config: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in _NO_MATTER}


def _with_tokenizer(loaded: Loaded, tokenizer: Any) -> Loaded:
    return Loaded(**{**vars(loaded), "tokenizer": tokenizer})


def _places(model: Any, folder: Path) -> tuple[dict[str, torch.Tensor], frozenset[str]]:
    """Which parameter each tensor of the files goes to, and the names that go nowhere.

    Empty where copying is not certain to give what `from_pretrained` gives.
    """
    files = weight_files(folder, allow_pickle=True)
    found = state_names(model, files)
    if found is None:
        return {}, frozenset()
    state = model.state_dict(keep_vars=True)
    places: dict[str, torch.Tensor] = {name: state[t].data for name, t in found.items()}
    filled = [p.data_ptr() for p in places.values()]
    if len(set(filled)) != len(filled) or {p.data_ptr() for p in state.values()} - set(filled):
        return {}, frozenset()
    return places, frozenset(_names(files)) - places.keys()


def state_names(model: Any, files: tuple[Path, ...]) -> dict[str, str] | None:
    """Names in weight files -> names in the model's state; those that go nowhere are left out.

    None where a tensor needs more than another name, or cannot be read by name.
    """
    if any(f.suffix != ".safetensors" for f in files) or getattr(model, "hf_quantizer", None):
        return None
    state = model.state_dict(keep_vars=True)
    rules = get_model_conversion_mapping(model)
    renamings = [r for r in rules if isinstance(r, WeightRenaming)]
    converters = [r for r in rules if isinstance(r, WeightConverter)]
    found: dict[str, str] = {}
    for name in _names(files):
        target, converted = rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        if converted is not None:
            return None
        if target not in state and name in state:
            target = name
        if target in state:
            found[name] = target
    return found


def _names(files: tuple[Path, ...]) -> list[str]:
    names: list[str] = []
    for file in files:
        with safe_open(file, framework="pt") as f:
            names += f.keys()
    return names

"""One module for a series: what is copied into it is what `from_pretrained` gives."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import CONFIGS, byte_level_tokenizer, save_checkpoint

from factlife.config import Model
from factlife.errors import IntegrityError, UsageError
from factlife.series.loading import load
from factlife.series.swap import Module

CPU = torch.device("cpu")
CONVERTED = {"olmoe"}  # experts are files apart and one parameter: loaded anew
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def state(model: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    tokenizer = byte_level_tokenizer()
    return [save_checkpoint(tmp_path / f"step{i}", "llama", i, tokenizer) for i in range(2)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_a_copy_in_place_is_what_from_pretrained_gives(
    tmp_path: Path, arch: str, dtype: str
) -> None:
    tokenizer = byte_level_tokenizer()
    folders = [save_checkpoint(tmp_path / f"step{i}", arch, i, tokenizer) for i in range(3)]
    module = Module(Model(dtype=dtype), CPU)
    first = module.load(folders[0]).model
    for folder in (*folders[1:], folders[0]):
        loaded = module.load(folder)
        fresh = load(folder, Model(dtype=dtype), CPU)
        assert equal(state(loaded.model), state(fresh.model))
        with torch.inference_mode():
            assert torch.equal(loaded.model(IDS).logits, fresh.model(IDS).logits)
        assert (loaded.dtype, loaded.attention) == (fresh.dtype, fresh.attention)
        assert loaded.n_parameters == fresh.n_parameters
        assert (loaded.model is first) == (arch not in CONVERTED)
    assert module.swapped == (0 if arch in CONVERTED else 3)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    folders = [save_checkpoint(tmp_path / f"step{i}", "gpt2", i) for i in range(2)]
    module = Module(Model(), CPU)
    module.load(folders[0])
    model = module.load(folders[1]).model
    assert module.swapped == 1
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


def test_other_sharding_is_copied_as_well(pair: list[Path]) -> None:
    path = pair[1] / "model.safetensors"
    tensors = load_file(path)
    names, where = sorted(tensors), {}
    for i in range(2):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names[i::2]}, pair[1] / shard, {"format": "pt"})
        where |= dict.fromkeys(names[i::2], shard)
    path.unlink()
    index = {"metadata": {}, "weight_map": where}
    (pair[1] / "model.safetensors.index.json").write_text(json.dumps(index))
    module = Module(Model(), CPU)
    module.load(pair[0])
    assert equal(state(module.load(pair[1]).model), state(load(pair[1], Model(), CPU).model))
    assert module.swapped == 1


def test_another_config_builds_another_module(pair: list[Path]) -> None:
    path = pair[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.1}))
    module = Module(Model(), CPU)
    first = module.load(pair[0]).model
    second = module.load(pair[1]).model
    assert second is not first and module.swapped == 0
    with torch.inference_mode():
        expected = load(pair[1], Model(), CPU).model(IDS).logits
        assert torch.equal(second(IDS).logits, expected)


def test_a_missing_tensor_does_not_keep_the_one_before(pair: list[Path]) -> None:
    path = pair[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    module = Module(Model(), CPU)
    module.load(pair[0])
    with pytest.raises(IntegrityError, match="lack 1 tensors"):
        module.load(pair[1])
    assert equal(state(module.load(pair[0]).model), state(load(pair[0], Model(), CPU).model))


def test_a_tokenizer_is_loaded_once_and_checked_each_time(pair: list[Path]) -> None:
    module = Module(Model(), CPU)
    assert module.load(pair[0]).tokenizer is module.load(pair[1]).tokenizer
    byte_level_tokenizer(320, bos=True).save_pretrained(pair[1])
    with pytest.raises(UsageError, match="the tokenizer of another model"):
        module.load(pair[1])
    shutil.rmtree(pair[1])
    save_checkpoint(pair[1], "llama", 1, byte_level_tokenizer(bos=True))
    assert module.load(pair[1]).tokenizer("a")["input_ids"][0] == 1


def test_a_released_model_is_gone_and_the_next_one_is_built_anew(pair: list[Path]) -> None:
    module = Module(Model(), CPU)
    there = weakref.ref(module.load(pair[0]).model)
    module.release()
    assert there() is None
    assert equal(state(module.load(pair[1]).model), state(load(pair[1], Model(), CPU).model))
    assert module.swapped == 0

"""A checkpoint folder becomes a model, or one line why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import CONFIGS, byte_level_tokenizer, random_model, save_checkpoint

from factlife.config import Model
from factlife.errors import IntegrityError, UsageError
from factlife.series.loading import load, pick_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("series") / "step5")


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    import shutil

    return Path(shutil.copytree(checkpoint, tmp_path / "inner" / "step5"))


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, arch: str) -> None:
    model = random_model(arch, seed=7)
    save_checkpoint(tmp_path, arch, seed=7)
    loaded = load(tmp_path, Model(), CPU)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(loaded.model(ids).logits, model(ids).logits, atol=1e-5)
    assert loaded.n_parameters == sum(p.numel() for p in model.parameters())
    assert loaded.architecture == type(model).__name__
    assert loaded.dtype == "float32"
    assert loaded.attention in ("sdpa", "eager")
    assert not loaded.model.training


def test_the_dtype_is_the_one_asked_for(checkpoint: Path) -> None:
    loaded = load(checkpoint, Model(dtype="bfloat16"), CPU)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_a_tokenizer_one_folder_above_is_found(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.rename(copy.parent / file.name)
    assert load(copy, Model(), CPU).tokenizer("a")["input_ids"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "m.M"}}, "--trust-remote-code"),
        ({"is_encoder_decoder": True, "model_type": "t5"}, "t5 is an encoder-decoder"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is not a causal language model"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not a causal language model"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    copy: Path, values: dict[str, Any], message: str
) -> None:
    edit_config(copy, **values)
    with pytest.raises(UsageError, match=message):
        load(copy, Model(), CPU)


def test_a_missing_tokenizer_is_named(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UsageError, match=r"has no tokenizer: copy tokenizer\.json"):
        load(copy, Model(), CPU)


@pytest.mark.parametrize("vocab", [900, 320])
def test_the_tokenizer_of_another_model_is_refused(copy: Path, vocab: int) -> None:
    """900 entries do not fit 600 embedding rows; 320 leave 280 rows unused."""
    byte_level_tokenizer(vocab).save_pretrained(copy)
    with pytest.raises(UsageError, match=f"the tokenizer has {vocab} entries, the model's.* 600"):
        load(copy, Model(), CPU)


def test_an_embedding_padded_to_a_round_size_is_fine(copy: Path) -> None:
    byte_level_tokenizer(590).save_pretrained(copy)
    assert load(copy, Model(), CPU).n_parameters > 0


def test_a_missing_tensor_is_not_filled_with_random_numbers(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        IntegrityError, match=r"lack 1 tensors, first model\.layers\.1\.mlp\.up_proj"
    ):
        load(copy, Model(), CPU)


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    edit_config(copy, intermediate_size=80)
    with pytest.raises(IntegrityError, match=r"shapes differ|do not fit config\.json"):
        load(copy, Model(), CPU)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(UsageError, match="device 'cuda:99' cannot be used here"):
        pick_device("cuda:99")
    with pytest.raises(UsageError, match="device 'gpu' cannot be used here"):
        pick_device("gpu")
    assert pick_device("cpu") == CPU

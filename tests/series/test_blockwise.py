"""A checkpoint filled block by block is the one that `from_pretrained` gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import CONFIGS, save_checkpoint
from torch import nn

from factlife.config import Model
from factlife.series.blockwise import load_blockwise
from factlife.series.loading import load

CPU = torch.device("cpu")
CONVERTED = {"olmoe"}  # its experts are stacked while it is loaded


@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_filled_it_is_the_loaded_one(tmp_path: Path, arch: str) -> None:
    folder = save_checkpoint(tmp_path / "step1", arch)
    whole, ours = load(folder, Model(), CPU), load_blockwise(folder, Model())
    assert (ours.fill is None) == (arch in CONVERTED)
    if ours.fill is not None:
        assert all(p.is_meta for p in ours.model.parameters())
        assert not any(b.is_meta for b in ours.model.buffers())
        blocks = next(m for m in ours.model.modules() if isinstance(m, nn.ModuleList))
        ours.fill(blocks[0])
        assert not any(p.is_meta for p in blocks[0].parameters())
        assert all(p.is_meta for p in blocks[1].parameters())
        ours.fill(ours.model)
    expected, found = whole.model.state_dict(), ours.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(whole.model(ids).logits, ours.model(ids).logits)
    for name in ("architecture", "n_parameters", "dtype", "attention", "max_length"):
        assert getattr(ours, name) == getattr(whole, name)
    tied = [m.get_input_embeddings().weight is m.get_output_embeddings().weight
            for m in (whole.model, ours.model)]  # fmt: skip
    assert tied[0] == tied[1]


def test_parameters_built_afterwards_have_memory(tmp_path: Path) -> None:
    load_blockwise(save_checkpoint(tmp_path / "step1"), Model())
    assert not nn.Linear(2, 2).weight.is_meta

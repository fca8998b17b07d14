"""Every byte of a checkpoint is checked before it counts."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.errors import IntegrityError, UsageError
from factlife.series.integrity import check_weights, read_config, weight_files

Tensors = dict[str, tuple[str, np.ndarray]]


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """Write the published format by hand: header length, JSON header, data."""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def weights(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {
        "a": ("F32", rng.normal(size=(3, 4)).astype(np.float32)),
        "b": ("F32", rng.normal(size=(5,)).astype(np.float32)),
    }


def test_the_tensor_hash_does_not_see_the_sharding_or_the_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    tensors = weights()
    write_safetensors(one / "model.safetensors", tensors)
    for i, name in enumerate(("b", "a")):
        shard = two / f"model-0000{i + 1}-of-00002.safetensors"
        write_safetensors(shard, {name: tensors[name]})
    index = {"b": "model-00001-of-00002.safetensors", "a": "model-00002-of-00002.safetensors"}
    (two / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    a, b = check_weights(one), check_weights(two)
    assert a.tensor_hash == b.tensor_hash
    assert a.identity != b.identity


@pytest.mark.parametrize("change", ["value", "name", "shape", "dtype"])
def test_the_tensor_hash_sees_every_change(tmp_path: Path, change: str) -> None:
    tensors = weights()
    write_safetensors(tmp_path / "model.safetensors", tensors)
    before = check_weights(tmp_path).tensor_hash
    dtype, array = tensors.pop("b")
    if change == "value":
        array = array.copy()
        array[0] = np.nextafter(array[0], np.float32(9))
    tensors["c" if change == "name" else "b"] = (
        "I32" if change == "dtype" else dtype,
        array.reshape(5, 1) if change == "shape" else array,
    )
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert check_weights(tmp_path).tensor_hash != before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_is_noticed(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_safetensors(folder / "model.safetensors", weights())
    whole = (folder / "model.safetensors").read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    (folder / "model.safetensors").write_bytes(whole[:length])
    with pytest.raises(IntegrityError, match=r"model\.safetensors is truncated or corrupt"):
        check_weights(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b + b"\0",
        lambda b: b[:8] + b"\xff" + b[9:],
        lambda b: b"\xff" * 8 + b[8:],
        lambda b: b"\0" * len(b),
        lambda b: b[:8] + b[8:].replace(b"[3, 4]", b"[3, 5]"),
        lambda b: b"",
    ],
)
def test_a_damaged_header_is_noticed(tmp_path: Path, damage) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, weights())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match="truncated or corrupt"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        ("F32", np.array([[1, np.nan]], dtype=np.float32)),
        ("F32", np.array([[1, -np.inf]], dtype=np.float32)),
        ("F64", np.array([[np.nan, 1]], dtype=np.float64)),
        ("F16", np.array([[np.inf, 1]], dtype=np.float16)),
        ("BF16", np.array([[0x7F80, 0x3F80]], dtype=np.uint16)),  # bf16 infinity, 1.0
        ("BF16", np.array([[0xFFC0, 0x3F80]], dtype=np.uint16)),  # bf16 NaN, 1.0
    ],
)
def test_nan_and_infinity_are_noticed_in_every_dtype(
    tmp_path: Path, dtype: str, bad: np.ndarray
) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a.weight": (dtype, bad)})
    with pytest.raises(IntegrityError, match=r"tensor a\.weight holds 1 NaN or infinite"):
        check_weights(tmp_path)


def test_the_largest_finite_numbers_pass(tmp_path: Path) -> None:
    for dtype, kind in (("F32", np.float32), ("F16", np.float16)):
        big = np.array([np.finfo(kind).max, np.finfo(kind).tiny], dtype=kind)
        write_safetensors(tmp_path / "model.safetensors", {"a": (dtype, big)})
        assert check_weights(tmp_path).tensor_hash


def test_an_all_zero_matrix_is_flagged_a_zero_bias_is_not(tmp_path: Path) -> None:
    zero = np.zeros((2, 2), dtype=np.float32)
    bias = {"bias": ("F32", np.zeros(4, dtype=np.float32))}
    write_safetensors(tmp_path / "model.safetensors", bias)
    assert check_weights(tmp_path).flags == ()
    write_safetensors(tmp_path / "model.safetensors", {**bias, "w": ("F32", zero)})
    assert check_weights(tmp_path).flags == ("all_zero:w",)


def test_a_missing_shard_and_a_missing_index_are_named(tmp_path: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    write_safetensors(tmp_path / shard, weights())
    with pytest.raises(IntegrityError, match="no model.safetensors.index.json"):
        check_weights(tmp_path)
    index = {"a": shard, "z": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(IntegrityError, match="1 of 2 shards are missing, first model-00002"):
        check_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"index\.json is damaged"):
        check_weights(tmp_path)


def test_pickled_weights_are_refused_without_leave(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match="only pickled weights.*--allow-pickle-weights"):
        weight_files(tmp_path)
    assert [f.name for f in weight_files(tmp_path, allow_pickle=True)] == ["pytorch_model.bin"]
    assert check_weights(tmp_path, allow_pickle=True).tensor_hash is None


def test_no_weights_and_a_broken_config_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no weights"):
        weight_files(tmp_path)
    with pytest.raises(UsageError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(IntegrityError, match="not JSON"):
        read_config(tmp_path)

"""Each kernel against loops and against one another, and what happens where one cannot be had."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tracing.models import batch, random_model
from torch import Tensor

from factlife.errors import UsageError
from factlife.tracing import adapter_for, contributions, kernels, native

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C compiler on the PATH")


def inputs(
    prompts: int, heads: int, tokens: int, width: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(prompts, tokens, width, generator=g)
    w = torch.rand(prompts, heads, tokens, tokens, generator=g)
    w[w < 0.2] = 0
    u = torch.randn(heads, prompts, tokens, width, generator=g)
    return y, w, u


def run(name: str, y: Tensor, w: Tensor, u: Tensor) -> Tensor:
    out = torch.zeros(y.shape[0], y.shape[1], y.shape[1], w.shape[1])
    kernels.proximity(y, w, u, out, kernels.choose(name, CPU))
    return out


def loops(y: Tensor, w: Tensor, u: Tensor) -> Tensor:
    y, w, u = y.double(), w.double(), u.double()
    out = torch.zeros(y.shape[0], y.shape[1], y.shape[1], w.shape[1], dtype=torch.float64)
    for b, t, s, h in torch.cartesian_prod(*(torch.arange(n) for n in out.shape)).tolist():
        if s <= t:
            part = w[b, h, t, s] * u[h, b, s]
            out[b, t, s, h] = y[b, t].abs().sum() - (y[b, t] - part).abs().sum()
    return out


SHAPES = [(1, 1, 1, 1), (2, 3, 7, 33), (3, 2, 9, 130)]
CASES = [
    *(pytest.param("eager", shape) for shape in SHAPES),
    *(pytest.param("c", shape, marks=needs_compiler) for shape in SHAPES),
    pytest.param("compile", SHAPES[-1], marks=[pytest.mark.slow, needs_compiler]),
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_kernel_equals_loops(name: str, shape: tuple[int, int, int, int]) -> None:
    y, w, u = inputs(*shape)
    found = run(name, y, w, u)
    # Sums of `width` numbers of about 1.
    assert (found - loops(y, w, u)).abs().max() < 1e-5 * shape[-1]
    assert (found[w.permute(0, 2, 3, 1) == 0] == 0).all()
    assert (found.permute(0, 3, 1, 2).triu(1) == 0).all()


def test_by_hand() -> None:
    # y = (3, -1), u = (2, 2), w = 1/2: part (1, 1). |y| = 4, |y - p| = |2| + |-2| = 4: nothing.
    # y = (3, -1), u = (2, -2), w = 1/2: part (1, -1). |y - p| = 2 + 0 = 2: proximity 2.
    # y = (3, -1), u = (-2, 0), w = 1: |y - p| = 5 + 1 = 6: proximity -2, clamped later.
    for u0, w0, expected in [((2.0, 2.0), 0.5, 0.0), ((2.0, -2.0), 0.5, 2.0), ((-2.0, 0), 1, -2)]:
        y, u = torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[list(u0)]]])
        assert run("eager", y, torch.full((1, 1, 1, 1), float(w0)), u).item() == expected


@needs_compiler
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 10), st.integers(1, 70),
    st.integers(0, 99),
)  # fmt: skip
def test_the_kernels_agree(prompts: int, heads: int, tokens: int, width: int, seed: int) -> None:
    y, w, u = inputs(prompts, heads, tokens, width, seed)
    assert (run("c", y, w, u) - run("eager", y, w, u)).abs().max() < 1e-5 * width


@needs_compiler
@pytest.mark.parametrize("arch", ["llama", "olmo2", "gpt_neox"])
def test_contributions_are_the_same_from_each(arch: str) -> None:
    model = random_model(arch)
    c, eager = (contributions(model, adapter_for(model), batch(), k) for k in ("c", "eager"))
    assert (c.heads - eager.heads).abs().max() < 1e-5
    assert (c.residual - eager.residual).abs().max() < 1e-5


@pytest.mark.slow
@needs_compiler
def test_contributions_are_the_same_compiled() -> None:
    model = random_model("llama")
    a, b = (contributions(model, adapter_for(model), batch(), k) for k in ("compile", "eager"))
    assert (a.heads - b.heads).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_contributions_are_the_same_on_a_gpu() -> None:
    model, padded = random_model("llama"), batch()
    expected = contributions(model, adapter_for(model), padded, "eager")
    model.cuda()
    there = type(padded)(padded.ids.cuda(), padded.mask.cuda(), padded.positions.cuda(), ())
    for kernel in ("auto", "eager"):
        found = contributions(model, adapter_for(model), there, kernel)
        assert (found.heads.cpu() - expected.heads).abs().max() < 1e-5


def test_eager_in_small_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    y, w, u = inputs(3, 4, 6, 10)
    whole = run("eager", y, w, u)
    for chunk in (1, 25, 130):
        monkeypatch.setattr(kernels, "CPU_CHUNK", chunk)
        assert torch.allclose(run("eager", y, w, u), whole, atol=1e-5)


@needs_compiler
def test_the_c_kernel_refuses_what_it_would_misread() -> None:
    y, w, u = inputs(2, 2, 3, 8)
    kernel, out = kernels.choose("c", CPU), torch.zeros(2, 3, 3, 2)
    for wrong in (
        (y.transpose(1, 2), w, u, out), (y, w.transpose(2, 3), u, out), (y.double(), w, u, out),
        (y, w, u, torch.zeros(2, 3, 2, 3).transpose(2, 3)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected fp32 on cpu with strides"):
            kernel(*wrong)


# ---- where a kernel cannot be had ------------------------------------------------------------


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and nothing loaded."""
    monkeypatch.setenv("FACTLIFE_CACHE", str(tmp_path))
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    native.load.cache_clear()
    yield tmp_path
    native.load.cache_clear()


def falls_back(reason: str) -> None:
    with pytest.raises(UsageError, match=f"kernel 'c' cannot be had here .*{reason}"):
        kernels.choose("c", CPU)
    assert kernels.choose("auto", CPU) is kernels.eager
    model = random_model("gpt2")
    found = contributions(model, adapter_for(model), batch())
    assert (found.heads > 0).any()


def test_no_compiler(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(anew))
    monkeypatch.delenv("CC", raising=False)
    falls_back("no C compiler")
    with pytest.raises(UsageError, match="kernel 'compile' cannot be had here"):
        kernels.choose("compile", CPU)


@needs_compiler
def test_a_folder_from_which_nothing_can_be_executed(
    anew: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(native.ctypes, "CDLL", refuse)
    falls_back("failed to map segment")
    assert list(anew.rglob("*.so"))


@needs_compiler
def test_a_cache_that_cannot_be_written_leaves_a_temporary_folder(
    anew: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (anew / "file").write_text("")
    monkeypatch.setenv("FACTLIFE_CACHE", str(anew / "file"))
    kernel, _ = native.load()
    assert kernel is not None
    assert [p.parent.name.startswith("factlife-") for p in anew.rglob("*.so")] == [True]


def test_a_compiler_that_fails(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = anew / "cc"
    script.write_text("#!/bin/sh\necho no such architecture >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    falls_back("no such architecture")


@needs_compiler
@pytest.mark.usefixtures("anew")
def test_without_openmp_one_thread_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "OPENMP", "-fno-such-flag")
    y, w, u = inputs(2, 3, 5, 16)
    assert (run("c", y, w, u) - loops(y, w, u)).abs().max() < 1e-4


@needs_compiler
def test_the_library_is_compiled_once(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.load()[0] is not None
    native.load.cache_clear()

    def never(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(native, "_compile", never)
    assert native.load()[0] is not None
    assert len(list(anew.rglob("*.so"))) == 1
    assert [p.name for p in (anew / "kernels").iterdir()] == [
        p.name for p in anew.rglob("*.so")
    ]  # nothing temporary is left


@needs_compiler
def test_the_library_leaves_denormal_numbers_alone() -> None:
    # A library linked with -ffast-math would make the whole process flush them to zero.
    assert native.load()[0] is not None
    assert torch.tensor(1e-40) * 2 > 0


def test_unknown_kernels_and_devices() -> None:
    with pytest.raises(UsageError, match="kernel 'fast' is not one of auto, c, compile, eager"):
        kernels.choose("fast", CPU)
    with pytest.raises(UsageError, match="device is meta"):
        kernels.choose("c", torch.device("meta"))
    assert kernels.choose("auto", torch.device("meta")) is kernels.eager


def test_the_source_is_shipped() -> None:
    assert native.SOURCE.is_file() and os.access(native.SOURCE, os.R_OK)
    if (cc := native.compiler()) is not None:
        strict = [cc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        command = [*strict, "-fsyntax-only", str(native.SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

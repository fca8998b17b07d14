"""The C kernel: compiled once by the system's compiler, kept in the user's cache, loaded by ctypes.

The cached library is named by a hash of its source, the flags, the compiler and the processor, and
it is renamed into place: several processes may come at once, and another machine that shares the
folder compiles its own.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("proximity.c")
# Sums may be reordered, which vectorises them. Not -ffast-math: a library linked with it sets the
# whole process to flush denormals, and it would assume that no state is infinite.
FLAGS = (
    "-O3", "-shared", "-fPIC", "-march=native", "-fassociative-math", "-fno-signed-zeros",
    "-fno-trapping-math", "-fno-math-errno",
)  # fmt: skip
# The library then finds the OpenMP runtime that torch has loaded, and shares its threads: a second
# pool would wait for cores on which the first one spins. Without OpenMP one thread does the work.
OPENMP = "-fopenmp"
TIMEOUT = 60  # seconds

Function = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def compiler() -> str | None:
    """Path of the system's C compiler: $CC, cc, gcc or clang."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def folders() -> Iterator[Path]:
    """Where the library may be kept: the cache, else a temporary folder of this process.

    A folder may be read-only, or mounted so that nothing in it can be executed.
    """
    if named := os.environ.get("FACTLIFE_CACHE"):
        yield Path(named) / "kernels"
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        yield (Path(base) if base else Path("~/.cache").expanduser()) / "factlife" / "kernels"
    yield Path(tempfile.mkdtemp(prefix="factlife-"))


@functools.cache
def load() -> tuple[Function | None, str]:
    """The kernel, or None and why it cannot be had."""
    cc = compiler()
    if cc is None:
        return None, "no C compiler on the PATH"
    reason = ""
    for folder in folders():
        try:
            return _bind(ctypes.CDLL(str(_library(cc, folder)))), ""
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            reason = f"{folder}: {str(error).splitlines()[0]}"
    return None, reason


def _key(cc: str) -> str:
    version = subprocess.run([cc, "--version"], capture_output=True, text=True, timeout=TIMEOUT)
    parts = (SOURCE.read_text("utf-8"), *FLAGS, cc, version.stdout, _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.is_file() else ""
    lines = {line for line in text.splitlines() if line.startswith(("model name", "flags", "Feat"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(lines)])


def _library(cc: str, folder: Path) -> Path:
    """Path of the compiled library, compiling it if it is not there."""
    library = folder / f"proximity-{_key(cc)}.so"
    if not library.is_file():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / library.name
            _compile(cc, made)
            made.replace(library)
    return library


def _compile(cc: str, library: Path) -> None:
    for extra in ((OPENMP,), ()):
        command = [cc, *FLAGS, *extra, "-o", str(library), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        if done.returncode == 0:
            return
    raise RuntimeError(f"{cc} failed: {done.stderr.strip() or done.returncode}")


def _bind(library: ctypes.CDLL) -> Function:
    """The C function on torch tensors, with torch's number of threads."""
    function = library.proximity
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 6
    function.restype = None

    def kernel(y: Tensor, w: Tensor, u: Tensor, out: Tensor) -> None:
        heads, prompts, tokens, width = u.shape
        everything = out.stride(2)
        _check(y, (tokens * width, width, 1))
        _check(u, (prompts * tokens * width, tokens * width, width, 1))
        _check(w, (everything * tokens * tokens, tokens * tokens, tokens, 1))
        _check(out, (everything * tokens * tokens, everything * tokens, everything, 1))
        function(
            y.data_ptr(), w.data_ptr(), u.data_ptr(), out.data_ptr(),
            prompts, heads, tokens, width, everything, torch.get_num_threads(),
        )  # fmt: skip

    return kernel


def _check(x: Tensor, strides: tuple[int, ...]) -> None:
    """The C code believes what it is told: a wrong stride would read elsewhere."""
    wrong = any(
        n > 1 and have != want for n, have, want in zip(x.shape, x.stride(), strides, strict=True)
    )
    if wrong or x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(f"expected fp32 on cpu with strides {strides}, got {x.stride()}")

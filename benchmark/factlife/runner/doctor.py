"""Whether this machine can do its work, and what to do where it cannot. Torch need not be there.

A finding is `ok`, a `warning` (something is slower or cannot be had, a run is still right) or an
`error` (a run would fail, or data are damaged).
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import factlife

OK, WARNING, ERROR = "ok", "warning", "error"
HUB_SECONDS = 5.0
FREE_BYTES = 2 * 10**9  # below it even a small run may fill the disk
DATA_SETS = ("fact-probes", "fictional-knowledge", "synthetic-biographies")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: ok, warning or error.
        found: what is there.
        todo: what to do about it; empty where nothing need be done.
    """

    name: str
    state: str
    found: str
    todo: str = ""


def examine(out: Path, datasets: Path, *, offline: bool = False) -> list[Finding]:
    """Look at everything that a run needs.

    Args:
        out: folder that runs are written under.
        offline: ask nothing of the network.
    """
    looks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("factlife", _source),
        ("packages", _packages),
        ("device", _device),
        ("kernel", _kernel),
        ("memory", _memory),
        ("data sets", lambda: _data_sets(datasets)),
        ("run folder", lambda: [_writable("run folder", out, "choose another --out")]),
        ("cache", lambda: [_cache()]),
        ("Hub", lambda: [_hub(offline)]),
    ]
    return [finding for name, look in looks for finding in _safely(name, look)]


def failed(findings: list[Finding]) -> list[Finding]:
    """The errors among them."""
    return [f for f in findings if f.state == ERROR]


def _safely(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """One look that fails in a way nobody thought of must not hide the others."""
    try:
        return look()
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        return [Finding(name, ERROR, f"{type(error).__name__}: {text}", "see --debug")]


# ---- software ----------------------------------------------------------------------------------


def _source() -> list[Finding]:
    from factlife.runner.provenance import source_commit

    sha, dirty = source_commit()
    commit = (
        "commit unknown" if sha is None else f"commit {sha[:12]}{' + changes' if dirty else ''}"
    )
    digest = os.environ.get("FACTLIFE_IMAGE_DIGEST")
    image = f", image {digest}" if digest else ""
    place = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return [Finding("factlife", OK, f"{factlife.__version__}, {commit}{image}; {place}")]


def _packages() -> list[Finding]:
    """Versions of what factlife requires; extras are needed by some commands only."""
    found, absent, old = [], [], []
    for name, extra, least in _required():
        try:
            have = version(name)
        except PackageNotFoundError:
            if extra in ("", "models"):
                absent.append((name, extra))
            continue
        found.append(f"{name} {have}")
        if _numbers(have) < _numbers(least):
            old.append(f"{name} {have} is older than {least}")
    findings = [Finding("packages", OK, ", ".join(found))]
    if absent:
        names = ", ".join(name for name, _ in absent)
        todo = "python -m pip install 'factlife[models]'; scoring and reports work without"
        state = ERROR if any(not extra for _, extra in absent) else WARNING
        findings.append(Finding("packages", state, f"not installed: {names}", todo))
    if old:
        todo = "python -m pip install --upgrade 'factlife[models]'"
        findings.append(Finding("packages", ERROR, "; ".join(old), todo))
    return findings


def _required() -> list[tuple[str, str, str]]:
    """(package, extra, least version) of the installed package's own requirements."""
    try:
        lines = requires("factlife") or []
    except PackageNotFoundError:
        return []
    wanted = []
    for line in lines:
        spec, _, marker = line.partition(";")
        name, _, least = spec.replace(" ", "").partition(">=")
        extra = marker.replace('"', "'").partition("extra == '")[2].partition("'")[0]
        wanted.append((name, extra, least or "0"))
    return wanted


def _numbers(text: str) -> tuple[int, ...]:
    """2.13.0+cu130 -> (2, 13, 0)."""
    parts = text.partition("+")[0].split(".")
    return tuple(int(p) for p in parts if p.isdecimal())


# ---- hardware ----------------------------------------------------------------------------------


def _device() -> list[Finding]:
    if find_spec("torch") is None:
        todo = "python -m pip install 'factlife[models]'"
        return [Finding("torch", WARNING, "not installed: no model can be measured here", todo)]
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    findings = [Finding("torch", OK, f"{torch.__version__}, built {built}")]
    if torch.cuda.is_available():
        return findings + [_gpu(torch, i) for i in range(torch.cuda.device_count())]
    findings.append(_no_gpu(torch))
    return findings


def _gpu(torch: Any, index: int) -> Finding:
    """Name and memory of a GPU, after a product on it."""
    device = torch.device("cuda", index)
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    found = f"{name}, compute {major}.{minor}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    ones = torch.ones(64, 64, device=device)
    if float((ones @ ones).sum()) != 64**3:
        todo = "restart the machine, or leave this GPU out with CUDA_VISIBLE_DEVICES"
        return Finding(f"cuda:{index}", ERROR, f"{found}; computes wrong numbers", todo)
    return Finding(f"cuda:{index}", OK, found)


def _no_gpu(torch: Any) -> Finding:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"cpu only, {cpus} cores, {torch.get_num_threads()} threads"
    if not torch.version.cuda:
        return Finding("device", OK, found, "for a GPU, install a torch wheel that carries CUDA")
    if not _driver():
        todo = "none is needed; in a container, pass --gpus all and install its NVIDIA toolkit"
        return Finding("device", OK, f"{found}; no NVIDIA driver", todo)
    todo = f"a driver is there, but not for CUDA {torch.version.cuda}: update it (nvidia-smi)"
    return Finding("device", WARNING, found, todo)


def _driver() -> bool:
    return Path("/proc/driver/nvidia/version").is_file() or shutil.which("nvidia-smi") is not None


def _kernel() -> list[Finding]:
    """The kernel that traces circuits on this machine's first device."""
    if find_spec("torch") is None:
        return []
    import torch

    from factlife.tracing import kernels, native

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = kernels.choose("auto", device)
    if chosen is not kernels.eager:
        name = "compile" if chosen is kernels.compiled else "c"
        return [Finding("kernel", OK, f"{name} on {device.type}, compiler {native.compiler()}")]
    why = native.load()[1] if device.type == "cpu" else kernels._no_compile(device) or ""
    todo = (
        "circuits take a few times longer: install a C compiler (gcc, libc6-dev), and point "
        "FACTLIFE_CACHE to a folder whose files may be executed (a container: --tmpfs /tmp:exec)"
    )
    return [Finding("kernel", WARNING, f"eager: {why}", todo)]


def _memory() -> list[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _memory_limit()
    usable = min(total, limit) if limit else total
    found = f"{usable / 1e9:.1f} GB" + (" (the container's limit)" if usable < total else "")
    if usable < 2e9:
        todo = "weights are read in fp32: 4 bytes a parameter; give it more memory (--memory)"
        return [Finding("memory", WARNING, found, todo)]
    return [Finding("memory", OK, found)]


def _memory_limit() -> int | None:
    """What the control group allows, in bytes; None without a limit."""
    places = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    for place in map(Path, places):
        if place.is_file() and (text := place.read_text("utf-8").strip()).isdecimal():
            return int(text)
    return None


# ---- data and folders --------------------------------------------------------------------------


def _data_sets(root: Path) -> list[Finding]:
    """The probes that the package carries, and the data sets as pushed.

    A data set is checked as `factlife datasets validate` does: a file that is cut off, or whose
    rows do not hold together, is an error.
    """
    from factlife.corpora.build import validate
    from factlife.corpora.fact_probes import load_fact_probes
    from factlife.errors import FactlifeError
    from factlife.store import sha256_file

    findings = [
        Finding("fact-probes", OK, f"fingerprint {load_fact_probes().fingerprint()}, built in")
    ]
    for name in DATA_SETS:
        files = sorted((root / name).glob("*.parquet"))
        if not files:
            todo = "only for load_dataset and validate: factlife datasets build, or --root"
            findings.append(Finding(f"datasets/{name}", WARNING, f"not in {root}", todo))
            continue
        try:
            checks = validate(root, [name])[name]
        except FactlifeError as error:
            found, todo = str(error).splitlines()[0], f"factlife datasets build {name}"
            findings.append(Finding(f"datasets/{name}", ERROR, found, todo))
            continue
        sums = ", ".join(f"{f.name} {sha256_file(f)[:12]}" for f in files)
        findings.append(Finding(f"datasets/{name}", OK, f"{sums}; {checks} checks hold"))
    return findings


def _writable(name: str, folder: Path, todo: str, state: str = ERROR) -> Finding:
    """Whether files can be made in a folder, or in the nearest one above it that is there."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding(name, state, f"{folder}: {error.strerror or error}", todo)
    free = shutil.disk_usage(place).free
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if free < FREE_BYTES:
        return Finding(name, WARNING, found, "free some space: the disk is nearly full")
    return Finding(name, OK, found)


def _cache() -> Finding:
    from huggingface_hub import constants

    todo = "series on the Hub need it: set HF_HOME to a folder that can be written"
    return _writable("download cache", Path(constants.HF_HUB_CACHE), todo, WARNING)


def _hub(offline: bool) -> Finding:
    """Whether the Hub answers; it is not needed for local series and data."""
    from huggingface_hub import constants, get_session

    if offline or constants.HF_HUB_OFFLINE:
        return Finding("Hub", OK, "not asked: offline; local series and all data sets work")
    try:
        answer = get_session().head(
            f"{constants.ENDPOINT}/api/models/gpt2", timeout=HUB_SECONDS, follow_redirects=True
        )
    except Exception as error:  # of whatever client the library uses
        todo = "local series work; for others see to the network, a proxy, or HF_ENDPOINT"
        name = type(error).__name__
        return Finding("Hub", WARNING, f"{constants.ENDPOINT} does not answer ({name})", todo)
    if answer.status_code >= 500:
        found = f"{constants.ENDPOINT} answers {answer.status_code}"
        return Finding("Hub", WARNING, found, "local series work; try again later")
    return _token(constants.ENDPOINT)


def _token(endpoint: str) -> Finding:
    """What a Hub that answers says of the token, which stands in no finding."""
    from huggingface_hub import get_session, get_token

    if (token := get_token()) is None:
        found = f"{endpoint} answers, without a token"
        return Finding("Hub", OK, found, "public series need none; gated ones: HF_TOKEN")
    try:
        answer = get_session().get(
            f"{endpoint}/api/whoami-v2",
            headers={"authorization": f"Bearer {token}"},
            timeout=HUB_SECONDS,
        )
    except Exception as error:  # of whatever client the library uses
        found = f"{endpoint} does not answer about the token ({type(error).__name__})"
        return Finding("Hub", WARNING, found, "try again later")
    if answer.status_code in (401, 403):
        found = f"{endpoint} answers, and does not know the token ({answer.status_code})"
        todo = "set HF_TOKEN to one that is valid, or unset it; `hf auth login` stores one"
        return Finding("Hub", WARNING, found, todo)
    return Finding("Hub", OK, f"{endpoint} answers, with a token")

"""A Slurm of one node, of its own: controller, node and keys in one folder, stopped at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "srun")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=2
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
PartitionName=short Nodes={host} MaxTime=5 State=UP
"""


@dataclass(frozen=True)
class SlurmNode:
    """A running Slurm."""

    folder: Path

    def call(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def tasks(self) -> list[str]:
        """Tasks that wait or run."""
        return self.call("squeue", "--noheader", "--array", "--format=%i").split()


@contextmanager
def slurm_node(folder: Path) -> Iterator[SlurmNode]:
    """Start munged, slurmctld and slurmd; skip, with the reason, where that cannot be."""
    path = f"{os.environ['PATH']}:{SBIN}"
    if absent := [name for name in NEEDED if shutil.which(name, path=path) is None]:
        pytest.skip(f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts tasks as their users: it needs root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        started: list[subprocess.Popen[bytes]] = []
        try:
            _configure(folder)
            _start(folder, started)
            yield SlurmNode(folder)
        finally:
            _empty_the_queue()
            for process in reversed(started):
                process.terminate()
            for process in reversed(started):
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(30)


def _empty_the_queue(seconds: float = 30) -> None:
    """Cancel what is left, and let its processes report their end while somebody listens."""
    subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=60)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = subprocess.run(["squeue", "--noheader"], capture_output=True, timeout=60)
        if not left.stdout.strip():
            return
        time.sleep(0.2)


def _configure(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    controller, node = _free_ports()
    values = {"folder": folder, "host": host, "controller": controller, "node": node}
    (folder / "slurm.conf").write_text(CONFIG.format(**values))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]


def _start(folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    munged = [
        "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
        f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
        f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed",
    ]  # fmt: skip
    for words in (munged, ["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
        with (folder / f"{words[0]}.out").open("wb") as out:
            started.append(subprocess.Popen(words, stdout=out, stderr=out))
        time.sleep(0.5)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = subprocess.run(
            ["sinfo", "--noheader", "--partition=main", "--format=%T"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if seen.stdout.strip() == "idle":
            return
        if dead := [p.args for p in started if p.poll() is not None]:
            break
        time.sleep(0.2)
    else:
        dead = []
    logs = [p.read_text("utf-8", "replace")[-300:] for p in sorted(folder.glob("*.out"))]
    pytest.skip(f"Slurm did not start here ({dead or 'the node is not idle'}): {' '.join(logs)}")

"""Run factlife commands in a process of their own: one JSON line in, one out.

HF_ENDPOINT is read when huggingface_hub is imported, and importing torch takes seconds: the tests
start one such process for a loopback Hub and give it all of their commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.hubserver import ROOT

WAIT_SCALE = "TEST_HUB_WAIT_SCALE"  # of the pauses before a request is repeated


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        return [x for x in self.stderr.splitlines() if x.startswith("factlife: error: ")]


class Driver:
    """A process that runs commands; `with Driver(environment) as run: run("plan", …)`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __enter__(self) -> Driver:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.drive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self._environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def __call__(self, *words: str | Path, **environment: str) -> Done:
        assert self._process.stdin and self._process.stdout
        order = {"words": [str(w) for w in words], "environment": environment}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


def main() -> None:
    """Serve commands until the input ends."""
    from typer.testing import CliRunner

    from factlife.cli import app
    from factlife.series import hub

    waits = hub.WAITS
    before = dict(os.environ)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        os.environ.clear()
        os.environ.update({**before, **order["environment"]})
        scale = float(order["environment"].get(WAIT_SCALE, 1))
        hub.WAITS = tuple(w * scale for w in waits)
        done = CliRunner().invoke(app, order["words"])
        stderr = done.stderr
        if done.exception and not isinstance(done.exception, SystemExit):
            stderr += "".join(traceback.format_exception(done.exception))
        answer = {"code": done.exit_code, "stdout": done.stdout, "stderr": stderr}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

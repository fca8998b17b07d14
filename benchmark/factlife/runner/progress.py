"""What a long command tells while it works; the command line draws it, tests ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receiver of progress. One stage runs at a time."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage of `total` units begins."""

    def advance(self, done: int, detail: str = "") -> None:
        """`done` units of the present stage are done."""

    def finish(self) -> None:
        """The present stage is over."""

    def warn(self, message: str) -> None:
        """Something that a reader should know; the work goes on."""


class Silent:
    """Progress that tells nobody."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """See `Progress`."""

    def advance(self, done: int, detail: str = "") -> None:
        """See `Progress`."""

    def finish(self) -> None:
        """See `Progress`."""

    def warn(self, message: str) -> None:
        """See `Progress`."""

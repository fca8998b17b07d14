"""What can go wrong, each kind with its exit code.

A message is one line: what is wrong, where, and how to mend it.
"""

from __future__ import annotations

OK, USAGE, SUBMISSION, INTEGRITY, PARTIAL = 0, 2, 3, 4, 5


class FactlifeError(Exception):
    """Base of every error that the command line prints as one line.

    Attributes:
        exit_code: the process exit code that this error leads to.
    """

    exit_code = 1


class UsageError(FactlifeError):
    """A wrong argument, file or setting (exit 2)."""

    exit_code = USAGE


class SubmissionError(FactlifeError):
    """A result that does not hold to the published format (exit 3)."""

    exit_code = SUBMISSION


class IntegrityError(FactlifeError):
    """Weights, data or tables that are not what they claim to be (exit 4)."""

    exit_code = INTEGRITY


class PartialError(FactlifeError):
    """Work that stopped before its end and goes on by the same command (exit 5)."""

    exit_code = PARTIAL

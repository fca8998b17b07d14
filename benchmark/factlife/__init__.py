"""factlife measures the life of a fact inside a language model."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("factlife")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

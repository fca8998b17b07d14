"""`python -m factlife`."""

from factlife.cli import main

main()

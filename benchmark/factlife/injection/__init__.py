"""Injection: how a model acquires knowledge that is put into its training text, and forgets it."""

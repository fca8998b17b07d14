"""Circuits: which heads and FFNs carry a fact, their roles, and proof that they matter."""

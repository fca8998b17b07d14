"""Checkpoint series: names, discovery, integrity, loading."""

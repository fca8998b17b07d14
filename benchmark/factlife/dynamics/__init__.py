"""The dynamics track: how facts are learned from scratch, and lost (dynamics-2025)."""

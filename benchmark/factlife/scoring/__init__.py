"""Scoring: log-probabilities, ranks, greedy matches and candidate rankings of target tokens."""

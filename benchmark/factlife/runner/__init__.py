"""Plan, run, resume, score: from a series to a finished run folder."""

"""Probe rows -> numbers: acquisition and forgetting, each against its null. Pure: no torch.

curves.py      rows of a run as arrays
samples.py     numbers with bootstrap draws; seeds put together
effect.py      effectivity on split halves, placebos, accumulation
retention.py   what is kept, as a ratio of means; decay.py: three laws
spacing.py     the learnability threshold; generation.py: log-probability and what is said
corruption.py  what real facts and background text suffer
published.py   the formulas of injection-2024
numbers.py     all numbers of one run; overall.py: all of a run folder
"""

from factlife.injection.metrics.overall import measure_all

__all__ = ["measure_all"]

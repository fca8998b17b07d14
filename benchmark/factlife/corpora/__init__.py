"""The data sets: fact probes, fictional knowledge, synthetic biographies.

Builders, Great Expectations suites and cards. Runs without torch; the data-set, pandas and
Great Expectations libraries are only needed to build and validate, never to read the probes.
"""

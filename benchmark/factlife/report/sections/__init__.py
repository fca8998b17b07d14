"""Sections of the report.

A section is a function from a `View` to a `Section`, or to None where the run has nothing for it.
A new track adds its module here and its function to `SECTIONS`; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable

from factlife.report.sections import (
    accuracy,
    circuits_ablation,
    circuits_change,
    circuits_fact,
    circuits_roles,
    circuits_sensitivity,
    dynamics,
    dynamics_changes,
    emergence,
    facts,
    headline,
    injection,
    names,
    numbers,
    provenance,
)
from factlife.report.sections.base import Section
from factlife.report.view import View

SECTIONS: tuple[Callable[[View], Section | None], ...] = (
    headline.headline,
    accuracy.subsets,
    accuracy.over_training,
    accuracy.relations,
    accuracy.ways_of_asking,
    accuracy.wording,
    emergence.emergence,
    facts.facts,
    names.made_up_names,
    circuits_roles.roles,
    circuits_roles.map_of_roles,
    circuits_fact.one_fact,
    circuits_change.changes,
    circuits_ablation.ablation,
    circuits_sensitivity.sensitivity,
    injection.acquisition,
    injection.forgetting,
    injection.spacing,
    injection.sweeps,
    injection.old_knowledge,
    injection.claims,
    dynamics.learning,
    dynamics.unseen_people,
    dynamics.attention,
    dynamics.patching,
    dynamics.size,
    dynamics.distribution,
    dynamics_changes.fine_tuning,
    dynamics_changes.claims,
    numbers.numbers,
    provenance.checkpoints,
    provenance.warnings,
    provenance.provenance,
)

__all__ = ["SECTIONS", "Section"]

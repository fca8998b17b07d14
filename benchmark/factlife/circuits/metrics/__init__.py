"""Circuits, sweep and ablation rows -> roles, transitions and scores. Pure: no model, no torch.

`roles` gives each component its role (spec section 5), `evolution` and `transitions` follow roles
over checkpoints (section 6), `nulls` and `halves` say what chance and the choice of facts would do,
`ablation` reads the causal check.
"""

from factlife.circuits.metrics.all import RANDOM_INIT, Found, measure_all
from factlife.circuits.metrics.registry import REGISTRY
from factlife.circuits.metrics.roles import head_roles

__all__ = ["RANDOM_INIT", "REGISTRY", "Found", "head_roles", "measure_all"]

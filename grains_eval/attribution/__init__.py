"""Which prompt tokens cause a preference: attribution methods, baselines and token selection."""

from grains_eval.attribution.methods import ATTRIBUTION_METHODS, attribute
from grains_eval.attribution.selection import SELECTIONS, select

__all__ = ["ATTRIBUTION_METHODS", "SELECTIONS", "attribute", "select"]

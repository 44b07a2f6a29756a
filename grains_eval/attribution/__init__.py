"""Which prompt tokens cause a preference: attribution methods, baselines and token selection."""

from grains_eval.attribution.attributions import attribute
from grains_eval.attribution.registry import ATTRIBUTION_METHODS, SELECTIONS, attribution_method, selection
from grains_eval.attribution.selections import select

__all__ = ["ATTRIBUTION_METHODS", "SELECTIONS", "attribute", "attribution_method", "select", "selection"]

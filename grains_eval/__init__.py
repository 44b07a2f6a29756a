"""Attribution-guided steering of text and vision-language models inside lm-eval.

The public names are loaded on first use, so that `import grains_eval` costs nothing and needs no torch.
"""

TYPE_CHECKING = False  # the name every type checker knows, without paying for `typing` at interpreter start
if TYPE_CHECKING:
    from grains_eval.artifacts.load import load_vectors
    from grains_eval.artifacts.save import save_vectors
    from grains_eval.attribution import attribute, attribution_method, selection
    from grains_eval.comparison import compare
    from grains_eval.errors import GrainsError
    from grains_eval.examples import load_examples
    from grains_eval.harness.evaluate import evaluate
    from grains_eval.models import load as load_model
    from grains_eval.recipes import load_recipe
    from grains_eval.steering import steered, steering_operator
    from grains_eval.types import (
        Attribution,
        Comparison,
        PreferenceExample,
        SteeringConfig,
        SteeringVectors,
        TokenSelection,
    )
    from grains_eval.vectors import BuildContext, Built, OwnSteering, build, vector_method

__version__ = "0.1.0"

__all__ = [
    "Attribution",
    "BuildContext",
    "Built",
    "Comparison",
    "GrainsError",
    "OwnSteering",
    "PreferenceExample",
    "SteeringConfig",
    "SteeringVectors",
    "TokenSelection",
    "__version__",
    "attribute",
    "attribution_method",
    "build",
    "compare",
    "evaluate",
    "load_examples",
    "load_model",
    "load_recipe",
    "load_vectors",
    "save_vectors",
    "selection",
    "steered",
    "steering_operator",
    "vector_method",
]

_HOMES = {
    "Attribution": "types",
    "BuildContext": "vectors",
    "Built": "vectors",
    "Comparison": "types",
    "GrainsError": "errors",
    "OwnSteering": "vectors",
    "PreferenceExample": "types",
    "SteeringConfig": "types",
    "SteeringVectors": "types",
    "TokenSelection": "types",
    "attribute": "attribution",
    "attribution_method": "attribution",
    "build": "vectors",
    "compare": "comparison",
    "evaluate": "harness.evaluate",
    "load_examples": "examples",
    "load_model": "models:load",
    "load_recipe": "recipes",
    "load_vectors": "artifacts.load",
    "save_vectors": "artifacts.save",
    "selection": "attribution",
    "steered": "steering",
    "steering_operator": "steering",
    "vector_method": "vectors",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'grains_eval' has no attribute '{name}'")
    from importlib import import_module

    module, _, attribute_name = _HOMES[name].partition(":")
    value = getattr(import_module(f"grains_eval.{module}"), attribute_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})

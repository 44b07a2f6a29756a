"""Virtual tokens: keys and values that every query sees at a fixed distance, though no token stands there.

The token takes no position and no place in the cache. This room never knows where keys and values came from.
"""

from grains_eval.virtual_tokens.columns import ResolvedTokens
from grains_eval.virtual_tokens.exactness import layout
from grains_eval.virtual_tokens.showing import Layout, check_fit, reading, shown

__all__ = ["Layout", "ResolvedTokens", "check_fit", "layout", "reading", "shown"]

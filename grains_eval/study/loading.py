"""The model of a study: built on, tuned on and evaluated as one object, so that all three score alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from grains_eval.errors import GrainsError
from grains_eval.harness.model import STEERING_ARGUMENTS, GrainsHF, SteeringMixin


def load_lm(model_args: Mapping[str, Any]) -> SteeringMixin:
    """The model as lm-eval holds it, ready to be steered by one artifact after another."""
    device = {} if "device" in model_args else {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    # half-precision log-softmax sums are off by .1 to .3 nats, more than many a paired difference
    return GrainsHF.create_from_arg_obj({"softmax_dtype": "float32", **model_args, **device})


def load_plain(model_args: Mapping[str, Any]) -> SteeringMixin:
    """The unsteered model, to build on.

    Raises:
        GrainsError: arguments that would steer it; see also `GrainsHF`.
    """
    given = [name for name in STEERING_ARGUMENTS if model_args.get(name) is not None]
    if given:
        raise GrainsError(f"unknown model argument '{given[0]}' of a build: it starts from the unsteered model")
    return load_lm(model_args)

"""Values of another kind are refused where a setting is made."""

from __future__ import annotations

import numpy as np
import pytest

from grains_eval.errors import GrainsError
from grains_eval.types import SteeringConfig


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"layers": 3}, r"layers=3 is not a tuple of layers; write layers=\(3,\) for one"),
        ({"layers": "3"}, "layers='3' is not a tuple of layers"),
        ({"layers": (0.5,)}, "is not a tuple of layers"),
        ({"strength": "x"}, "strength='x' is not a number; write strength=1.0"),
        ({"strength": None}, "strength=None is not a number"),
        ({"unit": "absolut"}, "unknown unit 'absolut': did you mean 'absolute'"),
        ({"positions": "first"}, "unknown positions 'first': .*known are all, generated, last, prompt"),
    ],
    ids=str,
)
def test_a_setting_of_another_kind_is_refused_in_one_line(setting, line):
    with pytest.raises(GrainsError, match=line) as refused:
        SteeringConfig(**setting)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_make_a_setting():
    config = SteeringConfig(layers=(np.int64(1), 2), strength=np.float32(0.5))
    assert config == SteeringConfig((1, 2), 0.5)

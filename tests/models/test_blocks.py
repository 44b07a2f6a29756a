"""Where a model's decoder blocks are."""

from __future__ import annotations

import types

import pytest
from torch import nn

from grains_eval.errors import GrainsError
from grains_eval.models.blocks import find_blocks


def model(**children: nn.Module) -> nn.Module:
    """A model of three blocks whose decoder has these children."""
    whole = nn.Module()
    for name, child in children.items():
        whole.add_module(name, child)
    whole.get_decoder = lambda: whole
    config = types.SimpleNamespace(num_hidden_layers=3)
    whole.config = types.SimpleNamespace(get_text_config=lambda decoder: config)
    return whole


def blocks(count: int = 3, inner: nn.Module | None = None) -> nn.ModuleList:
    return nn.ModuleList(inner or nn.Identity() for _ in range(count))


def test_the_shallowest_list_of_that_length():
    wanted = blocks(inner=nn.Sequential(blocks()))
    tower = nn.Sequential(nn.Sequential(blocks()), blocks(5))
    assert find_blocks(model(tower=tower, layers=wanted)) is wanted
    nested = nn.Sequential(wanted)
    assert find_blocks(model(tower=tower, inner=nested)) is wanted


def test_a_list_under_two_names_is_one():
    wanted = blocks()
    assert find_blocks(model(layers=wanted, again=nn.Sequential(wanted))) is wanted
    assert find_blocks(model(one=nn.Sequential(wanted), two=nn.Sequential(wanted))) is wanted


@pytest.mark.parametrize(("children", "count"), [({}, 0), ({"a": blocks(), "b": blocks()}, 2)])
def test_none_or_several_are_refused(children, count):
    with pytest.raises(GrainsError, match=f"found {count} lists of 3 decoder blocks"):
        find_blocks(model(**children))

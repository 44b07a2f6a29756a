"""Settings as rows and salts; needs no vLLM."""

from __future__ import annotations

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.steering import OPERATORS, resolve
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.virtual_tokens import ResolvedTokens
from grains_eval.vllm.settings import Setting, pack, salt, setting_of, unpack
from tests.vllm.checks import settings

DIRECTIONS = {layer: torch.randn(8, generator=torch.Generator().manual_seed(layer)) for layer in range(3)}


def made(site="block_output", **config):
    vectors = SteeringVectors(DIRECTIONS, dict.fromkeys(DIRECTIONS, 2.0), site=site)
    return resolve(vectors, SteeringConfig(**config))


def test_what_moves_nothing_is_the_plain_model():
    assert setting_of((made(strength=0.0), None)) == Setting()
    assert Setting().digest() == ""
    assert salt("", 1.0, None) is None and salt("abc", 0.0, None) is None


def test_steerings_share_a_stage_where_the_second_need_not_see_the_first():
    apart = setting_of((made(layers=(0,)), made(layers=(1, 2), operator="add")))
    assert len(apart.stages) == 1 and apart.layers == (0, 1, 2)
    assert apart.stages[0].operators == {0: "add_renormalised", 1: "add", 2: "add"}
    assert len(setting_of((made(layers=(0,)), made(layers=(0,)))).stages) == 2
    assert len(setting_of((made(layers=(0,)), made(layers=(1,), positions="prompt"))).stages) == 2


def test_heads_are_refused():
    with pytest.raises(GrainsError, match="attention_heads cannot be steered in vLLM"):
        setting_of((made(site="attention_heads"),))


def test_virtual_tokens_and_operators_of_others_are_refused(monkeypatch):
    monkeypatch.setitem(OPERATORS._entries, "mine", lambda hidden, delta: hidden - delta)
    shown = ResolvedTokens({0: torch.ones(1, 2, 4)}, {0: torch.ones(1, 2, 4)}, (1,), (0.0,))
    with pytest.raises(GrainsError, match="virtual tokens cannot be shown in vLLM"):
        setting_of((shown,))
    with pytest.raises(GrainsError, match="operator mine cannot act in vLLM, where add and add_renormalised can"):
        setting_of((made(operator="mine"),))


def test_settings_travel_whole():
    sent = [setting_of([item.resolved for item in each]) for each in settings().values()]
    found = unpack(pack(sent))
    assert [one.digest() for one in found] == [one.digest() for one in sent]


def test_no_two_settings_share_a_salt():
    kinds = [
        {"layers": layers, "strength": strength, "unit": unit, "operator": operator, "positions": positions}
        for layers in (None, (0,), (0, 1))
        for strength in (1.0, -1.0, 0.5)
        for unit in ("relative", "absolute")
        for operator in ("add", "add_renormalised")
        for positions in ("all", "prompt", "generated", "last")
    ]
    found = [setting_of((made(**kind),)) for kind in kinds]
    found += [setting_of((made(**kinds[0]), made(**kind))) for kind in kinds if kind["layers"] is None]
    found += [setting_of((made(**kind), made(**kinds[0]))) for kind in kinds[5:] if kind["layers"] is None]
    changed = SteeringVectors({0: DIRECTIONS[0].nextafter(torch.tensor(9.0))}, {0: 2.0})
    found += [setting_of((resolve(changed, SteeringConfig(layers=(0,))),))]
    salts = {
        salt(each.digest(), strength, prompt if each.by_position else None)
        for each in found
        for strength in (1.0, 2.0)
        for prompt in (3, 4)
    }
    assert len(salts) == sum(2 * (2 if each.by_position else 1) for each in found)


def test_requests_that_agree_share_their_cache():
    one, other = setting_of((made(),)), setting_of((made(),))
    assert salt(one.digest(), 1.0, None) == salt(other.digest(), 1, None)

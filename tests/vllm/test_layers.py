"""What layers do with their tables, and which tokens a step is placed for; needs no vLLM."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from grains_eval.vllm.layers import new_tables, steer, steer_plainly, wrap
from grains_eval.vllm.runner import ARGUMENT, Steering, follow_v1, follow_v2
from grains_eval.vllm.settings import setting_of
from tests.vllm.checks import settings
from tests.vllm.families import LAYERS, WIDTH

LOADED = [setting_of([item.resolved for item in each]) for each in settings().values()]


class Layer(nn.Module):
    """A layer that adds its input to itself and returns what its kind returns."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, hidden, residual=None):
        if self.kind == "pair":
            return hidden * 0.5, hidden + 1 if residual is None else residual + hidden
        return {"stream": hidden * 2, "none": (hidden * 2, None), "list": [hidden], "wide": hidden[None, None]}[
            self.kind
        ]


@pytest.fixture
def tables():
    made = new_tables(len(LOADED), 2, 32, torch.device("cpu"))
    for index in range(LAYERS):
        wrap(Layer("pair"), index, WIDTH, made)
    made.load(LOADED)
    return made


def placed(tables, rows, prompts, starts, computed):
    steering = Steering(tables)
    new = [
        SimpleNamespace(
            req_id=str(number),
            sampling_params=SimpleNamespace(
                extra_args={
                    ARGUMENT: {"row": row, "digest": LOADED[row - 1].digest(), "prompt": prompt, "strength": 1.0}
                }
                if row
                else None
            ),
        )
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    ]
    steering.follow(SimpleNamespace(finished_req_ids=[], scheduled_new_reqs=new))
    steering.write([each.req_id for each in new], np.array(starts), np.array(computed))
    return steering


@pytest.mark.parametrize("row", range(1, len(LOADED) + 1))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables_do_what_the_operators_do(tables, row, dtype):
    placed(tables, [row, 0], [5, 3], [0, 8, 12], [0, 0])
    hidden, residual = (torch.randn(12, WIDTH).to(dtype) for _ in range(2))
    for index, layer in tables.layers.items():
        for rest in (residual, None):
            new, left = steer(layer, hidden, rest)
            wanted, kept = steer_plainly(tables, index, hidden, rest)
            torch.testing.assert_close(new, wanted)
            assert (left is None) == (rest is None)
            assert left is None or torch.equal(left, kept)
            assert torch.equal(new[8:], hidden[8:])  # the unsteered request's own bits
            assert bool((new[:8] != hidden[:8]).any()) == (index in LOADED[row - 1].layers)


@pytest.mark.parametrize(
    ("rule", "moved"),
    [("all", range(2, 8)), ("prompt", range(2, 5)), ("generated", range(5, 8)), ("last", [4])],
)
def test_rules_count_from_the_start_of_the_request(tables, rule, moved):
    names = list(settings())
    row = names.index(f"add, {rule}") + 1
    # two tokens were computed before; the prompt has five
    placed(tables, [0, row], [1, 5], [0, 3, 9], [7, 2])
    found = tables.slots[0, :10].tolist()
    assert found == [row if 2 + at - 3 in moved and at < 9 else 0 for at in range(10)]


def test_prompts_with_images_end_where_their_answers_begin(tables):
    given = {"row": list(settings()).index("add, last") + 1, "answer": 2, "strength": 1.0}
    given["digest"] = LOADED[given["row"] - 1].digest()
    parameters = SimpleNamespace(extra_args={ARGUMENT: given})
    # the image among them has become four tokens
    new = SimpleNamespace(req_id="a", sampling_params=parameters, prompt_token_ids=[5, 9, 9, 9, 9, 6, 7, 8])
    steering = Steering(tables)
    steering.follow(SimpleNamespace(finished_req_ids=[], scheduled_new_reqs=[new]))
    steering.write(["a"], np.array([0, 8]), np.array([0]))
    assert tables.slots[0, :8].tolist() == [0, 0, 0, 0, 0, given["row"], 0, 0]


def test_counts_are_those_of_the_layers(tables):
    placed(tables, [1, 2], [5, 5], [0, 8, 12], [0, 0])
    for layer in tables.layers.values():
        steer(layer, torch.randn(12, WIDTH), None)
    for index, (moved, due) in tables.counts().items():
        assert moved == sum(due)
        assert (moved > 0) == (index in (1, 3))
    tables.layers[1].grains_moved.add_(1)
    moved, due = tables.counts()[1]
    assert moved != sum(due)


@pytest.mark.parametrize("kind", ["pair", "stream", "none"])
def test_layers_of_every_layout(kind):
    made = new_tables(1, 1, 16, torch.device("cpu"))
    layer = Layer(kind)
    wrap(layer, 0, WIDTH, made)
    made.load([setting_of([settings()["absolute"][0].resolved])])
    hidden = torch.randn(4, WIDTH)
    plain = Layer(kind)(hidden)
    found = layer(hidden)
    for one, other in zip(_tensors(found), _tensors(plain), strict=True):
        assert torch.equal(one, other)
    made.slots[0, :2] = 1
    made.strengths[0, :2] = 1.0
    delta = made.settings[0].stages[0].deltas[0]
    change = sum(_tensors(layer(hidden))) - sum(_tensors(plain))
    torch.testing.assert_close(change, torch.cat([delta.expand(2, -1), torch.zeros(2, WIDTH)]), atol=1e-5, rtol=1e-5)
    assert made.layouts == {0: "pair" if kind == "pair" else "stream"}


@pytest.mark.parametrize("kind", ["list", "wide"])
def test_another_layout_is_left_alone_and_named(kind):
    made = new_tables(1, 1, 16, torch.device("cpu"))
    layer = Layer(kind)
    wrap(layer, 0, WIDTH, made)
    hidden = torch.randn(4, WIDTH)
    assert torch.equal(layer(hidden)[0], Layer(kind)(hidden)[0])
    assert made.layouts[0] not in ("pair", "stream")


def test_a_request_meant_for_other_vectors_ends_the_step(tables):
    new = SimpleNamespace(
        req_id="a",
        sampling_params=SimpleNamespace(
            extra_args={ARGUMENT: {"row": 1, "digest": "another", "prompt": 1, "strength": 1.0}}
        ),
    )
    with pytest.raises(RuntimeError, match="other vectors"):
        Steering(tables).follow(SimpleNamespace(finished_req_ids=[], scheduled_new_reqs=[new]))


class FirstRunner:
    """What of vLLM's V1 model runner is overridden."""

    def __init__(self, tables):
        self.model = SimpleNamespace(grains_tables=tables)
        self.query_start_loc = SimpleNamespace(np=np.array([0, 3, 9, 0, 0]))
        computed = np.array([7, 2, 0, 0])
        self.input_batch = SimpleNamespace(req_ids=["a", "b"], num_reqs=2, num_computed_tokens_cpu=computed)

    def get_model(self):
        return self.model

    def execute_model(self, scheduled):
        return self._model_forward()

    def _model_forward(self):
        return self.model.grains_tables.slots[0, :10].tolist()


class SecondRunner(FirstRunner):
    """Of V2."""

    cudagraph_manager = None

    def prepare_inputs(self, scheduled):
        found = {"req_ids": ["a", "b"], "query_start_loc_np": np.array([0, 3, 9]), "num_computed_tokens_np": [7, 2]}
        return SimpleNamespace(**{name: np.array(each) if "np" in name else each for name, each in found.items()})

    def execute_model(self, scheduled, dummy_run=False):
        if not dummy_run:
            self.prepare_inputs(scheduled)
        return self._model_forward()


@pytest.mark.parametrize(("kind", "follow"), [(FirstRunner, follow_v1), (SecondRunner, follow_v2)])
def test_both_runners_are_followed(tables, kind, follow):
    mine = type("Runner", (kind,), {})
    follow(mine)
    runner = mine(tables)
    given = {"row": 1, "digest": LOADED[0].digest(), "prompt": 5, "strength": 1.0}
    new = [SimpleNamespace(req_id="b", sampling_params=SimpleNamespace(extra_args={ARGUMENT: given}))]
    found = runner.execute_model(SimpleNamespace(finished_req_ids=[], scheduled_new_reqs=new))
    assert found == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]
    assert not tables.slots.any()  # nothing is left for a dummy step
    later = runner.execute_model(SimpleNamespace(finished_req_ids=["b"], scheduled_new_reqs=[]))
    assert later == [0] * 10


def _tensors(output):
    return [output] if isinstance(output, torch.Tensor) else [each for each in output if each is not None]

"""Family × operator × unit × position rule × composition in vLLM, compiled, against Hugging Face (`make test-vllm`)."""

from __future__ import annotations

import pytest

from tests.vllm import checks
from tests.vllm.families import COMPARED, build

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.mark.parametrize("family", COMPARED)
def test_engines_differ_no_more_under_steering(family, tmp_path, monkeypatch):
    checks.in_one_process(monkeypatch.setenv)
    folder = build(family, tmp_path / family)
    # first, since vLLM changes those classes of transformers that it runs itself
    wanted = checks.measure(checks.reference(folder), checks.settings())
    with checks.engine(folder, max_settings=20, max_vectors=2, **checks.ALONE) as ours:
        check(checks.measure(ours, checks.settings()), wanted)


@pytest.mark.parametrize("split", ["tensor_parallel_size", "pipeline_parallel_size"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_split_over_two_processes(family, split, tmp_path):
    folder = build(family, tmp_path / family)
    wanted = checks.measure(checks.reference(folder), checks.settings())
    with checks.engine(folder, max_settings=20, max_vectors=2, **{split: 2}) as ours:
        ranks = {each["rank"]: each["layers"] for each in ours.engine.reports}
        assert sorted(ranks) == [0, 1]
        assert ranks[0] == ([0, 1, 2, 3] if split.startswith("tensor") else [0, 1])
        check(checks.measure(ours, checks.settings()), wanted)


def check(ours, theirs):
    found = checks.compare(ours, theirs)
    assert found["unsteered"].loglikelihood < 1e-4
    for name, difference in found.items():
        assert difference.agrees(found["unsteered"]), (name, difference, found["unsteered"])
        assert name == "unsteered" or difference.moved > 1e-2

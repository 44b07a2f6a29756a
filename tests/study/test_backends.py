"""Model arguments as an engine takes them."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.study.backends import PLAIN, Backend, engine_arguments, load_engine


def test_an_engine_takes_what_both_know_and_its_own():
    backend = Backend("vllm", {"gpu_memory_utilization": 0.5})
    found = engine_arguments({"pretrained": "a", "dtype": "float32", "device": "cpu", "softmax_dtype": "x"}, backend)
    assert {"pretrained": "a", "dtype": "float32", "gpu_memory_utilization": 0.5}.items() <= found.items()
    assert not {"device", "softmax_dtype"} & set(found)


def test_arguments_that_an_engine_cannot_take_are_refused():
    with pytest.raises(GrainsError, match="model argument 'peft' cannot be handed to vLLM"):
        engine_arguments({"pretrained": "a", "peft": "b"}, Backend("vllm"))
    with pytest.raises(GrainsError, match="backend_args has 'x' but the backend is hf"):
        Backend("hf", {"x": 1})
    with pytest.raises(GrainsError, match="unknown backend 'vlm': did you mean 'vllm'"):
        Backend("vlm")


def test_the_plain_backend_has_no_engine():
    assert load_engine({"pretrained": "a"}, PLAIN) is None

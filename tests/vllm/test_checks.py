"""What `grains_vllm` is not started with, in one line; needs no vLLM."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.study.backends import Backend
from grains_eval.vllm.checks import check_arguments, check_one_engine, check_one_process, read_count

KNOWN = {"pretrained", "dtype", "tensor_parallel_size", "gpu_memory_utilization"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"tensor_paralel_size": 2},
            "unknown model argument 'tensor_paralel_size': did you mean 'tensor_parallel_size'",
        ),
        ({"strenght": 1}, "did you mean 'strength'"),
        ({"max_setings": 1}, "did you mean 'max_settings'"),
        ({"share_context": True}, "share_context= is an argument of grains_hf alone"),
        ({"plugins": "x.py"}, "plugins= is an argument of grains_hf alone"),
    ],
)
def test_unknown_arguments(given, message):
    with pytest.raises(GrainsError) as error:
        check_arguments({"dtype": "float32", **given}, KNOWN)
    assert message in str(error.value)
    check_arguments({"dtype": "float32", "device": "cuda:0"}, KNOWN)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("two", "max_settings=two is not a whole number"),
        (1.5, "is not a whole number"),
        (-1, "max_settings=-1 is below 0"),
    ],
)
def test_numbers(value, message):
    with pytest.raises(GrainsError, match=message):
        read_count("max_settings", value, 0)
    assert read_count("max_settings", "17", 0) == 17


def test_several_engines():
    with pytest.raises(GrainsError, match="data_parallel_size starts engines that cannot be reached"):
        check_one_engine({"data_parallel_size": "2"})
    check_one_engine({})


def test_launchers_start_no_engines(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for start in (check_one_process, lambda: Backend("vllm")):
        with pytest.raises(
            GrainsError, match=r"torchrun or accelerate launch started 4 processes .* tensor_parallel_size=4"
        ):
            start()
    Backend("hf")
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_one_process()

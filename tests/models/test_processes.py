"""Processes on machines without a GPU."""

import os

from grains_eval.models.processes import expect_cpu_processes


def test_only_several_processes_without_a_gpu_are_told_to_use_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    expect_cpu_processes()
    assert "ACCELERATE_USE_CPU" not in os.environ
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    expect_cpu_processes()
    assert "ACCELERATE_USE_CPU" not in os.environ
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")  # so that it is restored afterwards
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    expect_cpu_processes()
    assert os.environ["ACCELERATE_USE_CPU"] == "true"

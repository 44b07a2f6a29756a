"""Several processes on CPUs: accelerate joins them only where it is told that they are CPUs."""

from __future__ import annotations

import os

import torch


def expect_cpu_processes() -> None:
    """Let `torchrun` on a machine without GPU mean what it means on one with; call before a model is loaded."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")

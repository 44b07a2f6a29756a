"""Several processes on CPUs: accelerate joins them only if it is told to use the CPU."""

from __future__ import annotations

import os

import torch


def expect_cpu_processes() -> None:
    """Make `torchrun` work on a machine without a GPU as it does on one with; call before a model is loaded."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")

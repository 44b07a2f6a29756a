"""How near a run is to what the machine can do: its matrix products against the rate of one large product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import common


def matmul_rate(device: str, dtype: str) -> float:
    """Floating-point operations per second of one large matrix product."""
    size = 8192 if device.startswith("cuda") else 1024
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    left @ right
    best = min(common.seconds(lambda: left @ right, device)[0] for _ in range(8))
    return 2 * size**3 / best


_ATEN = torch.ops.aten
# the registry knows attention on GPUs only
_COUNTED = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class _Counter(TorchDispatchMode):
    """Adds up the floating-point operations of matrix products, those of attention included."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _COUNTED:
            self.total += _COUNTED[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products of one run, forward and backward."""
    with _Counter() as counter:
        work()
    return counter.total

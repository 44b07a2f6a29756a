"""What an engine asks of each of its ranks, called by name (`worker_extension_cls`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grains_eval.vllm.attach import ATTRIBUTE
from grains_eval.vllm.layers import Tables
from grains_eval.vllm.settings import unpack


class SteeringWorker:
    """Methods that vLLM adds to its worker."""

    model_runner: Any
    rank: int

    def grains_load(self, packed: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Fill the rows of this rank's tables, row 1 first."""
        tables = _tables(self)
        if tables is not None:
            tables.load(unpack(packed))

    def grains_report(self) -> dict[str, Any]:
        """What this rank steers."""
        model = self.model_runner.get_model()
        second = any(".worker.gpu.model_runner" in kind.__module__ for kind in type(self.model_runner).__mro__)
        found: dict[str, Any] = {
            "rank": int(self.rank),
            "model": type(model).__name__,
            "runner": "V2" if second else "V1",
        }
        tables = _tables(self)
        if tables is None:
            return {**found, "obstacle": "the plugin did not run in this process"}
        return {
            **found,
            "obstacle": tables.obstacle,
            "layers": sorted(tables.layers),
            "place": tables.place,
            "widths": sorted({int(layer.grains_table.shape[-1]) for layer in tables.layers.values()}),
            "rows": [setting.digest() for setting in tables.settings],
            "layouts": {str(index): layout for index, layout in sorted(tables.layouts.items())},
        }

    def grains_counts(self) -> dict[str, tuple[int, list[int]]]:
        """Per layer of this rank, tokens that were moved and tokens that each row was to move."""
        tables = _tables(self)
        return {} if tables is None else {str(index): found for index, found in tables.counts().items()}

    def grains_reference(self, on: bool, shift: float = 0.0) -> None:
        """Run the model outside compiled code, with plain arithmetic in its layers, or as usual again."""
        tables = _tables(self)
        if tables is None:
            return
        tables.reference, tables.shift = on, shift
        for module in self.model_runner.get_model().modules():
            if hasattr(module, "do_not_compile"):
                if not hasattr(module, "grains_compiled"):
                    module.grains_compiled = not module.do_not_compile
                module.do_not_compile = on or not module.grains_compiled


def _tables(worker: Any) -> Tables | None:
    return getattr(worker.model_runner.get_model(), ATTRIBUTE, None)

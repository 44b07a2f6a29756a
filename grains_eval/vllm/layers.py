"""Decoder layers of a vLLM model that read, in their own forward, which of their tokens are moved and how.

Tables and buffers are static: torch.compile traces them once, CUDA graphs capture them, and their values change in
place. A token whose row is 0 gets the layer's own tensors back, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from grains_eval.steering import OPERATORS
from grains_eval.vllm.settings import OPERATOR_CODES, POSITION_CODES, Setting

_SLACK = 1024  # tokens by which a step may be padded
_RENORMALISED = OPERATOR_CODES["add_renormalised"]


@dataclass
class Tables:
    """The steering of one rank's model; all tensors lie on its device.

    Attributes:
        rows: Settings that the tables hold at most, the plain model not counted.
        stages: Steerings of one setting that act one after another, at most.
        slots: `[stages, tokens]` int64, the row of each token of the step; row 0 is the plain model.
        strengths: `[stages, tokens]` float32, what its delta is multiplied with.
        layers: The steered decoder layers that this rank holds, by their index in the whole model.
        place: Name of the list that they are in, in the model.
        settings: What the rows hold, row 1 first.
        rules: `[stages, rows + 1]` position rules, on the CPU.
        sent: `[stages, rows + 1]` tokens sent through each row so far, on the CPU.
        obstacle: Why the model cannot be steered; empty where it can.
        reference: Whether layers outside compiled code compute with `steering.OPERATORS`, as they are checked by.
        shift: Size of what is added to a layer's first tensor and taken from its second in `reference`.
        layouts: Per layer, how it returned the residual stream the last time it ran outside compiled code.
    """

    rows: int
    stages: int
    slots: Tensor
    strengths: Tensor
    layers: dict[int, Any] = field(default_factory=dict[int, Any])
    place: str = ""
    settings: tuple[Setting, ...] = ()
    rules: Tensor = field(default_factory=lambda: torch.zeros(0))
    sent: Tensor = field(default_factory=lambda: torch.zeros(0))
    obstacle: str = ""
    reference: bool = False
    shift: float = 0.0
    layouts: dict[int, str] = field(default_factory=dict[int, str])

    def load(self, settings: Sequence[Setting]) -> None:
        """Fill the rows; those that are left over move nothing.

        Raises:
            ValueError: more than there is room for, or another width (both are checked before settings are sent).
        """
        if len(settings) > self.rows or any(len(setting.stages) > self.stages for setting in settings):
            raise ValueError(f"{len(settings)} settings do not fit {self.rows} rows of {self.stages} stages")
        self.rules = torch.zeros(self.stages, self.rows + 1, dtype=torch.long)
        self.sent = torch.zeros(self.stages, self.rows + 1, dtype=torch.long)
        for module in self.layers.values():
            for buffer in (module.grains_table, module.grains_operators, module.grains_moved):
                buffer.zero_()
        for row, setting in enumerate(settings, start=1):
            for number, stage in enumerate(setting.stages):
                self.rules[number, row] = POSITION_CODES[stage.positions]
                for layer, delta in stage.deltas.items():
                    if layer in self.layers:
                        self.layers[layer].grains_table[number, row].copy_(delta)
                        self.layers[layer].grains_operators[number, row] = OPERATOR_CODES[stage.operators[layer]]
        self.settings = tuple(settings)

    def counts(self) -> dict[int, tuple[int, list[int]]]:
        """Per layer, tokens that it has moved and tokens that each row was to move there, once for every stage."""
        found: dict[int, tuple[int, list[int]]] = {}
        for index, layer in sorted(self.layers.items()):
            due = (self.sent * (layer.grains_operators.cpu() != 0)).sum(0) if self.settings else torch.zeros(1)
            found[index] = int(layer.grains_moved), [int(count) for count in due]
        return found


def new_tables(rows: int, stages: int, tokens: int, device: torch.device) -> Tables:
    """Empty tables for steps of up to `tokens` tokens."""
    slots = torch.zeros(stages, tokens + _SLACK, dtype=torch.long, device=device)
    return Tables(rows, stages, slots, torch.zeros(stages, tokens + _SLACK, device=device))


def wrap(layer: nn.Module, index: int, hidden: int, tables: Tables) -> None:
    """Let decoder layer `index`, `hidden` wide, steer its own output."""
    device, shape = tables.slots.device, (tables.stages, tables.rows + 1)
    layer.register_buffer("grains_table", torch.zeros(*shape, hidden, device=device), persistent=False)
    layer.register_buffer("grains_operators", torch.zeros(shape, dtype=torch.int32, device=device), persistent=False)
    layer.register_buffer("grains_moved", torch.zeros((), dtype=torch.long, device=device), persistent=False)
    layer.register_buffer("grains_slots", tables.slots, persistent=False)
    layer.register_buffer("grains_strengths", tables.strengths, persistent=False)
    tables.layers[index] = layer
    forward = layer.forward

    def steered(self: Any, *arguments: Any, **keywords: Any) -> Any:
        output = forward(*arguments, **keywords)
        if not torch.compiler.is_compiling():
            # Python state must not be traced: compiled code would keep what it was
            tables.layouts[index] = layout = _layout(output, hidden)
            if layout not in ("stream", "pair"):
                return output
            if tables.reference:
                return _put(output, *steer_plainly(tables, index, *_taken(output)))
        elif _layout(output, hidden) not in ("stream", "pair"):
            return output
        return _put(output, *steer(self, *_taken(output)))

    layer.forward = MethodType(steered, layer)


def _layout(output: Any, hidden: int) -> str:
    """`stream` or `pair` where a layer's output is understood, else what it is."""
    if isinstance(output, Tensor):
        if _is_flat(output, hidden) or (output.ndim == 3 and output.shape[0] == 1 and output.shape[-1] == hidden):
            return "stream"  # with a batch of one in front where the model is transformers' own
        return f"a tensor of {output.ndim} dimensions"
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor):
        first, second = output
        if _is_flat(first, hidden) and second is None:
            return "stream"
        if _is_flat(first, hidden) and isinstance(second, Tensor) and _is_flat(second, hidden):
            return "pair"
    return f"a {type(output).__name__} that is not a residual stream"


def _is_flat(tensor: Tensor, hidden: int) -> bool:
    return tensor.ndim == 2 and tensor.shape[-1] == hidden


def _taken(output: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(output, Tensor):
        return output if output.ndim == 2 else output[0], None
    return output


def _put(output: Any, hidden: Tensor, residual: Tensor | None) -> Any:
    if isinstance(output, Tensor):
        return hidden if output.ndim == 2 else hidden[None]
    return hidden, residual


def steer(layer: Any, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Move the tokens of one step at one layer (method step 6, `steering.add` and `add_renormalised`).

    Args:
        layer: Has the tables.
        hidden: `[tokens, hidden]`, a layer's output, or what is still to be added to `residual`.
        residual: `[tokens, hidden]`; the stream is the sum of both.

    Returns:
        The same pair; a moved token's stream lies in the first alone, so that it is rounded once.
    """
    count = hidden.shape[0]
    table, operators = layer.grains_table, layer.grains_operators
    # in the model's own precision, as the next layer would add them
    stream = (hidden if residual is None else hidden + residual).float()
    touched = torch.zeros(count, 1, dtype=torch.bool, device=hidden.device)
    for stage in range(table.shape[0]):
        slot = layer.grains_slots[stage, :count]
        operator = operators[stage][slot][:, None]
        moved = stream + layer.grains_strengths[stage, :count, None] * table[stage][slot]
        norm = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        moved_norm = torch.linalg.vector_norm(moved, dim=-1, keepdim=True)
        moved = torch.where(operator == _RENORMALISED, moved * (norm / moved_norm.clamp_min(1e-12)), moved)
        stream = torch.where(operator != 0, moved.to(hidden.dtype).float(), stream)
        touched = touched | (operator != 0)
        layer.grains_moved.add_((operator != 0).sum())
    new = torch.where(touched, stream.to(hidden.dtype), hidden)
    return new, None if residual is None else torch.where(touched, torch.zeros_like(residual), residual)


def steer_plainly(tables: Tables, index: int, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """As `steer`, token by token with `steering.OPERATORS` and the deltas as they were sent: what it is checked by."""
    stream = hidden if residual is None else hidden + residual
    new, rest = hidden.clone(), None if residual is None else residual.clone()
    count = hidden.shape[0]
    slots, strengths = tables.slots[:, :count].tolist(), tables.strengths[:, :count].tolist()
    for token in range(count):
        moved, touched = stream[token], False
        for number in range(tables.stages):
            row = slots[number][token]
            stages = tables.settings[row - 1].stages if row else ()
            if number < len(stages) and index in stages[number].deltas:
                delta = strengths[number][token] * stages[number].deltas[index].to(moved.device)
                moved, touched = OPERATORS[stages[number].operators[index]](moved, delta), True
        if touched:
            new[token] = moved
            if rest is not None:
                rest[token] = 0
    if rest is not None and tables.shift:
        # no multiple of ones, which a LayerNorm would not see
        change = tables.shift * torch.sin(torch.arange(hidden.shape[-1], device=hidden.device)).to(hidden.dtype)
        return new + change, rest - change
    return new, rest

"""Write, before each step of an engine, which row of the tables moves which token.

vLLM has two model runners. V1 runs its model in `_model_forward`, made to be overridden, with the batch in
`input_batch`; V2 returns the batch from `prepare_inputs`. Both call `execute_model` with the requests that are new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import torch

from grains_eval.vllm.attach import ATTRIBUTE
from grains_eval.vllm.layers import Tables
from grains_eval.vllm.library import in_context, run_without_graphs

ARGUMENT = "grains_eval"  # in `SamplingParams.extra_args`


@dataclass(frozen=True)
class Placement:
    """How one request is steered.

    Attributes:
        row: Of the tables; 0 is the plain model.
        prompt: Tokens before the answer.
        strength: What the row's deltas are multiplied with.
    """

    row: int
    prompt: int
    strength: float


@dataclass
class Steering:
    """A runner's tables and the steered requests that it knows."""

    tables: Tables
    requests: dict[str, Placement] = field(default_factory=dict[str, Placement])

    def follow(self, scheduled: Any) -> None:
        """Learn which requests are new and forget those that are finished.

        Raises:
            RuntimeError: a request was meant for other vectors than its row holds.
        """
        for name in scheduled.finished_req_ids:
            self.requests.pop(name, None)
        for new in scheduled.scheduled_new_reqs:
            arguments: Mapping[str, Any] = getattr(new.sampling_params, "extra_args", None) or {}
            given = arguments.get(ARGUMENT)
            self.requests.pop(new.req_id, None)
            if given is None or not given["row"]:
                continue
            row, held = int(given["row"]), self.tables.settings
            if row > len(held) or held[row - 1].digest() != given["digest"]:
                raise RuntimeError(
                    f"grains-eval: row {row} holds other vectors than request {new.req_id} was meant for"
                )
            prompt = len(new.prompt_token_ids) - given["answer"] if "answer" in given else given["prompt"]
            self.requests[new.req_id] = Placement(row, int(prompt), float(given["strength"]))

    def write(self, names: Sequence[str], starts: Any, computed: Any) -> None:
        """Place the tokens of one step.

        Args:
            names: Requests in the order of the batch.
            starts: `[requests + 1]` where the tokens of each begin.
            computed: `[requests]` tokens of each that were computed in earlier steps.
        """
        placed = [self.requests.get(name) for name in names]
        tables = self.tables
        self.clear()
        if not any(placed):
            return
        rows = np.array([0 if each is None else each.row for each in placed])
        prompts = np.array([0 if each is None else each.prompt for each in placed])
        strengths = np.array([0.0 if each is None else each.strength for each in placed], dtype=np.float32)
        starts = np.asarray(starts[: len(placed) + 1], dtype=np.int64)
        counts, total = np.diff(starts), int(starts[-1])
        owner = np.repeat(np.arange(len(placed)), counts)
        position = np.arange(total) - starts[owner] + np.asarray(computed[: len(placed)])[owner]
        row, prompt, rules = rows[owner], prompts[owner], tables.rules.numpy()
        slots = np.zeros((tables.stages, total), dtype=np.int64)
        for stage in range(tables.stages):
            rule = rules[stage][row]
            inside = (rule == 0) | ((rule == 1) & (position < prompt)) | ((rule == 2) & (position >= prompt))
            slots[stage] = np.where(inside | ((rule == 3) & (position == prompt - 1)), row, 0)
            if not tables.reference:
                tables.sent[stage] += torch.from_numpy(np.bincount(slots[stage], minlength=tables.rows + 1))
        _send(slots, tables.slots)
        _send(np.broadcast_to(strengths[owner], slots.shape).copy(), tables.strengths)

    def clear(self) -> None:
        """Steer nothing until the next step is placed: dummy steps of data parallelism come in between."""
        self.tables.slots.zero_()


def _send(values: Any, buffer: torch.Tensor) -> None:
    """Copy `[stages, tokens]` into a static buffer; from pinned memory, else the device would be waited for."""
    host = torch.from_numpy(values)
    if buffer.is_cuda:
        host = host.pin_memory()
    buffer[:, : host.shape[1]].copy_(host, non_blocking=True)


def steering_of(runner: Any) -> Steering | None:
    """The steering of a model runner; None where its engine is not to be steered."""
    found = runner.__dict__.get("grains_steering")
    if found is None:
        tables = getattr(runner.get_model(), ATTRIBUTE, None)
        if tables is None:
            return None
        found = runner.__dict__["grains_steering"] = Steering(tables)
    return found


def follow_v1(kind: Any) -> None:
    """Override the two methods of vLLM's V1 runner; harmless where nothing is steered."""
    if kind.__dict__.get("grains_followed"):
        return
    kind.grains_followed = True
    execute, forward = kind.execute_model, kind._model_forward

    @wraps(execute)
    def execute_model(self: Any, scheduler_output: Any, *arguments: Any, **keywords: Any) -> Any:
        steering = steering_of(self)
        if steering is not None:
            steering.follow(scheduler_output)
        return execute(self, scheduler_output, *arguments, **keywords)

    @wraps(forward)
    def model_forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        steering = steering_of(self)
        if steering is None:
            return forward(self, *arguments, **keywords)
        batch = self.input_batch
        names = batch.req_ids[: batch.num_reqs]
        steering.write(names, self.query_start_loc.np, batch.num_computed_tokens_cpu)
        if steering.tables.reference:
            run_without_graphs()
            with in_context(self.vllm_config):
                output = forward(self, *arguments, **keywords)
        else:
            output = forward(self, *arguments, **keywords)
        steering.clear()
        return output

    kind.execute_model, kind._model_forward = execute_model, model_forward


def follow_v2(kind: Any) -> None:
    """Override the two methods of vLLM's V2 runner; harmless where nothing is steered."""
    if kind.__dict__.get("grains_followed"):
        return
    kind.grains_followed = True
    execute, prepare = kind.execute_model, kind.prepare_inputs

    @wraps(execute)
    def execute_model(self: Any, scheduler_output: Any, *arguments: Any, **keywords: Any) -> Any:
        steering = steering_of(self)
        if steering is None:
            return execute(self, scheduler_output, *arguments, **keywords)
        dummy = keywords.get("dummy_run", arguments[1] if len(arguments) > 1 else False)
        if not dummy:
            steering.follow(scheduler_output)
        if not steering.tables.reference:
            output = execute(self, scheduler_output, *arguments, **keywords)
        else:
            graphs, self.cudagraph_manager = self.cudagraph_manager, None
            try:
                with in_context(self.vllm_config):
                    output = execute(self, scheduler_output, *arguments, **keywords)
            finally:
                self.cudagraph_manager = graphs
        steering.clear()
        return output

    @wraps(prepare)
    def prepare_inputs(self: Any, *arguments: Any, **keywords: Any) -> Any:
        batch = prepare(self, *arguments, **keywords)
        steering = steering_of(self)
        if steering is not None:
            steering.write(batch.req_ids, batch.query_start_loc_np, batch.num_computed_tokens_np)
        return batch

    kind.execute_model, kind.prepare_inputs = execute_model, prepare_inputs

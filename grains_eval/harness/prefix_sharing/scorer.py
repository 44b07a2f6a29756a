"""Run batches of contexts and continuations for a fixed set of steering configurations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from grains_eval.harness.prefix_sharing.configurations import Configuration, Stack, answers_only, moving, resume_layer
from grains_eval.harness.prefix_sharing.passes import Pass, Runner, State
from grains_eval.harness.prefix_sharing.plan import Group, Limits, PrefixGroup, batches, chunks
from grains_eval.harness.prefix_sharing.targets import Score, ScoreSums, Targets, branch_pass, context_pass
from grains_eval.models.layers import text_config

logger = logging.getLogger(__name__)

Progress = Callable[[int], Any]

# fewer tokens than this do not fill the machine, whatever the batch size
_FULL_PASS_CPU, _FULL_PASS_ACCELERATOR = 1024, 4096
# where `batch_size=auto` starts; it is halved when memory runs out
_AUTO_ACCELERATOR = 65536
_MOST_LOGITS = 2**26
# bytes that the prefixes of all configurations may keep at once
_MOST_PREFIX_BYTES = 2**31


def limits_for(model: PreTrainedModel, batch_size: int | str, longest: int) -> Limits:
    """What one pass may hold: `batch_size` of the longest requests, or at least what fills the machine."""
    on_cpu = model.device.type == "cpu"
    tokens = _FULL_PASS_CPU if on_cpu else _FULL_PASS_ACCELERATOR
    if isinstance(batch_size, int):
        tokens = max(tokens, batch_size * longest)
    elif not on_cpu:
        tokens = _AUTO_ACCELERATOR
    return Limits(tokens, max(2**15, 8 * tokens), _MOST_LOGITS)


@dataclass(frozen=True)
class _RunningStack:
    """A stack, the configurations whose results it gives, and where it stands after the shared prefix.

    Attributes:
        answers_only: Whether prompts are as the plain model leaves them.
    """

    stack: Stack
    configurations: tuple[int, ...]
    start: State | None = None
    answers_only: bool = False


class Scorer:
    """Sums log-probabilities for every configuration.

    Attributes:
        results: Per configuration, `{request: (sum in nats, every token was the most likely one)}`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        configurations: Sequence[Configuration],
        limits: Limits,
        softmax_dtype: torch.dtype | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.runner = Runner(model)
        self.configurations = [moving(each) for each in configurations]
        self.limits, self.softmax_dtype, self.progress = limits, softmax_dtype, progress
        self.results: list[dict[int, Score]] = [{} for _ in self.configurations]
        self._vocabulary = int(text_config(model).vocab_size)
        steered = [each for each in self.configurations if each]
        depth = len(self.runner.layers)
        baselines = tuple(index for index, each in enumerate(self.configurations) if not each)
        # the plain pass pays off if its results are wanted, or if it saves the others more than it costs
        spared = sum(resume_layer(each) for each in steered)
        self._share = bool(steered) and (bool(baselines) or spared > depth)
        # configurations that leave prompts as the plain model does, itself included
        self._late = sum(map(answers_only, self.configurations)) if any(map(answers_only, steered)) else 0
        needed = bool(baselines) or self._share or self._late
        self._plain = _RunningStack(Stack(model, [()]), baselines) if needed else None
        self._keep = sorted({resume_layer(each) - 1 for each in steered} - {-1}) if self._share else []
        self._made: dict[int, list[_RunningStack]] = {}

    def run(self, shared: PrefixGroup) -> None:
        """Score groups that share `shared.prefix` tokens."""
        groups, prefix = shared.groups, shared.prefix
        if self._late > 1:  # a context's row that takes in an answer is moved there
            groups = tuple(replace(each, extendable=False) for each in groups)
        if not prefix:
            for part in batches(groups, 0, self.limits):
                self._batch(part, 0, self._plain, None)
            return
        tokens = torch.tensor([groups[0].context[:prefix]])
        none = torch.zeros(0, dtype=torch.long)
        length = torch.tensor([prefix])
        opening = Pass({"input_ids": tokens}, length, length, False, (none, none))
        first = next(batches(groups, prefix, self.limits))
        stacks = self._stacks(self._size(1, max(prefix, len(first) * (len(first[0].row) - prefix))))
        plain, waiting = self._plain, list(stacks)
        base: State | None = None
        if plain is not None:
            base = self.runner.run(opening, plain.stack, keep=self._keep)
            plain = _RunningStack(plain.stack, plain.configurations, replace(base, kept={}))
        while plain is not None or waiting:
            held: list[_RunningStack] = []
            size = 0 if base is None else _bytes(base)
            # as many configurations at a time as their prefixes fit; the plain one is in every round
            while waiting and (not held or size < _MOST_PREFIX_BYTES):
                running = waiting.pop(0)
                if running.answers_only and plain is not None:
                    held.append(replace(running, start=plain.start))
                    continue
                start = self.runner.run(opening, running.stack, base=base if self._share else None)
                held.append(replace(running, start=start))
                size += _bytes(start)
            for part in batches(groups, prefix, self.limits):
                self._batch(part, prefix, plain, held, last=not waiting)
            if not waiting:
                return
            if plain is not None:
                plain = _RunningStack(plain.stack, (), plain.start)

    def prepared(self, group: Group, inputs: Mapping[str, Any]) -> None:
        """Score one context whose forward keywords are given."""
        self._batch([group], 0, self._plain, None, inputs)

    def _size(self, rows: int, width: int) -> int:
        """Configurations that run at a time on a batch."""
        return max(1, self.limits.tokens // max(1, rows * width))

    def _stacks(self, size: int) -> list[_RunningStack]:
        """Steered configurations in stacks of up to `size` that resume at the same layer."""
        if size not in self._made:
            alike: dict[tuple[int, bool], list[int]] = {}
            for index, each in enumerate(self.configurations):
                if each:
                    kind = resume_layer(each) if self._share else 0, answers_only(each)
                    alike.setdefault(kind, []).append(index)
            self._made[size] = [
                _RunningStack(
                    Stack(self.runner.model, [self.configurations[i] for i in part]), tuple(part), answers_only=late
                )
                for (_, late), rows in alike.items()
                for part in (rows[start : start + size] for start in range(0, len(rows), size))
            ]
        return self._made[size]

    def _batch(
        self,
        groups: Sequence[Group],
        prefix: int,
        plain: _RunningStack | None,
        stacks: list[_RunningStack] | None,
        inputs: Mapping[str, Any] | None = None,
        last: bool = True,
    ) -> None:
        """Score groups together, in smaller parts when memory runs out.

        `stacks` are the stacks after a shared prefix; None where there is no prefix.
        """
        width = max(len(each.row) for each in groups) - prefix
        chosen = self._stacks(self._size(len(groups), width)) if stacks is None else stacks
        try:
            found = self._scores(groups, prefix, plain, chosen, inputs)
        except torch.OutOfMemoryError:
            if self.limits.smallest:
                raise
            found = None
        if found is None:
            # outside the handler, whose traceback would keep the pass's tensors alive
            torch.cuda.empty_cache()
            self.limits = self.limits.halved()
            logger.warning("out of memory: continuing with %d tokens per pass", self.limits.tokens)
            for part in batches(groups, prefix, self.limits):
                self._batch(part, prefix, plain, stacks, inputs, last)
            return
        for result, scores in zip(self.results, found, strict=True):
            result.update(scores)
        if self.progress is not None and last:
            self.progress(sum(len(each.owners) for each in groups))

    def _scores(
        self,
        groups: Sequence[Group],
        prefix: int,
        plain: _RunningStack | None,
        stacks: Sequence[_RunningStack],
        inputs: Mapping[str, Any] | None,
    ) -> list[dict[int, Score]]:
        sums = ScoreSums(len(self.configurations), self.softmax_dtype)
        size = max((running.stack.size for running in stacks), default=1)
        passes = [context_pass(groups, prefix, inputs)]
        reach = max(len(each.row) for each in groups)
        passes += [branch_pass(rows) for rows in chunks(groups, reach, self.limits.shared(size), self._vocabulary)]
        bases: Sequence[State | None] = [None] * len(passes)
        late = any(running.answers_only for running in stacks) and all(each.tail is None for each in groups)
        context: State | None = None
        if plain is not None and (plain.configurations or self._share):
            context, bases = self._run_stack(plain, passes, bases, sums, self._keep)
        elif plain is not None and late:
            context, _ = self._run_stack(plain, passes, bases, sums, branches=False)
        if not late:
            context = None  # nothing continues it: its keys and values can be freed
        for running in stacks:
            self._run_stack(running, passes, bases, sums, context=context if running.answers_only else None)
        return sums.scores()

    def _run_stack(
        self,
        running: _RunningStack,
        passes: Sequence[tuple[Pass, Targets]],
        bases: Sequence[State | None],
        sums: ScoreSums,
        keep: Sequence[int] = (),
        context: State | None = None,
        branches: bool = True,
    ) -> tuple[State, list[State]]:
        """Run the context pass, unless its state is given, and its branches for one stack.

        Returns:
            The state after the context, and what later stacks resume from.
        """
        (plan, targets), *rest = passes
        if context is None:
            context = self.runner.run(plan, running.stack, running.start, bases[0], keep=keep, keep_cache=bool(rest))
        sums.add(running.configurations, context.logits, targets)
        states = [replace(context, logits=context.logits[:, :0], cache=None)]
        for (plan, targets), base in zip(rest, bases[1:], strict=True):
            if not branches:
                break
            state = self.runner.run(plan, running.stack, context, base, keep=keep, keep_cache=False)
            sums.add(running.configurations, state.logits, targets)
            states.append(replace(state, logits=state.logits[:, :0], cache=None))
        return context, states


def _bytes(state: State) -> int:
    """Memory of the keys and values of a state."""
    layers: list[Any] = [] if state.cache is None else list(state.cache.layers)
    held = [tensor for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)

"""Groups of requests as rows of a pass, and what is read off its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grains_eval.harness.prefix_sharing.passes import Pass
from grains_eval.harness.prefix_sharing.plan import Branch, Group

Score = tuple[float, bool]
"""Sum of log-probabilities in nats, and whether every token was the most likely one."""


@dataclass(frozen=True)
class Targets:
    """What to read off the logits of a pass: `M` triples of read position, token and request."""

    reads: list[int]
    tokens: list[int]
    owners: list[int]


class ScoreSums:
    """Adds up log-probabilities per configuration and request."""

    def __init__(self, configurations: int, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.found: list[dict[int, Score]] = [{} for _ in range(configurations)]

    def add(self, configurations: Sequence[int], logits: Tensor, targets: Targets) -> None:
        """Read targets off logits `[S, N, V]`; a single `S` may answer for several equal configurations."""
        if not targets.owners or not configurations:
            return
        reads = torch.tensor(targets.reads, device=logits.device)
        tokens = torch.tensor(targets.tokens, device=logits.device)
        for row, each in enumerate(logits):
            logprobs = each.log_softmax(dim=-1, dtype=self.dtype)
            values = logprobs[reads, tokens].tolist()
            hits = (logprobs.argmax(dim=-1)[reads] == tokens).tolist()
            for index in configurations if len(logits) == 1 else configurations[row : row + 1]:
                found = self.found[index]
                for owner, value, hit in zip(targets.owners, values, hits, strict=True):
                    total, greedy = found.get(owner, (0.0, True))
                    found[owner] = total + value, greedy and hit

    def scores(self) -> list[dict[int, Score]]:
        """Per configuration, the sums so far."""
        return self.found


def context_pass(groups: Sequence[Group], prefix: int, inputs: Mapping[str, Any] | None) -> tuple[Pass, Targets]:
    """The contexts without their shared prefix; first tokens of continuations are read at their ends."""
    rows, columns = list[int](), list[int]()
    targets = Targets([], [], [])
    for row, each in enumerate(groups):
        end = len(each.context) - prefix
        for index, (tokens, owner) in enumerate(zip(each.continuations, each.owners, strict=True)):
            last = len(tokens) if index == each.tail else 1
            targets.reads.extend(range(len(rows), len(rows) + last))
            targets.tokens.extend(tokens[:last])
            targets.owners.extend([owner] * last)
        read = 1 if each.tail is None else len(each.continuations[each.tail])
        rows.extend([row] * read)
        columns.extend(range(end - 1, end - 1 + read))
    tokens = [each.row[prefix:] for each in groups]
    plan = Pass(
        inputs={"input_ids": _padded(tokens)} if inputs is None else inputs,
        lengths=torch.tensor([len(each) for each in tokens]),
        prompts=torch.tensor([len(each.context) - prefix for each in groups]),
        closes_prompt=True,
        reads=(torch.tensor(rows), torch.tensor(columns)),
        parents=torch.zeros(len(groups), dtype=torch.long) if prefix else None,
    )
    return plan, targets


def branch_pass(branches: Sequence[Branch]) -> tuple[Pass, Targets]:
    """Continuations after their contexts, without their last token (nothing is read after it)."""
    tokens = [each.tokens[:-1] for each in branches]
    rows = [row for row, each in enumerate(tokens) for _ in each]
    targets = Targets(
        reads=list(range(len(rows))),
        tokens=[token for each in branches for token in each.tokens[1:]],
        owners=[branches[row].owner for row in rows],
    )
    plan = Pass(
        inputs={"input_ids": _padded(tokens)},
        lengths=torch.tensor([len(each) for each in tokens]),
        prompts=torch.zeros(len(tokens), dtype=torch.long),
        closes_prompt=False,
        reads=(torch.tensor(rows), torch.tensor([column for each in tokens for column in range(len(each))])),
        parents=torch.tensor([each.parent for each in branches]),
    )
    return plan, targets


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])

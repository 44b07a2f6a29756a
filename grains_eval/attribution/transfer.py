"""Selection by transfer: tokens whose own keys and values move the preference of *other* examples.

What moves one answer alone (an object, a room) says nothing to another prompt; a cue does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from grains_eval.errors import GrainsError

_FEWEST_UNITS = 3

Candidate = tuple[int, int]
"""Index of an example, and a position in its prompt."""

# candidates -> [candidates, examples] change of `F` when each is shown to each example, nats
Transfer = Callable[[Sequence[Candidate]], Tensor]


@dataclass(frozen=True)
class Transferred:
    """Evidence of one candidate.

    Attributes:
        statistic: Student's `t` of the mean change of other examples' preference; its own unit is left out.
        p: One-sided p-value of a change in the wanted direction.
    """

    statistic: float
    p: float


def transfer_statistics(
    changes: Tensor, candidates: Sequence[Candidate], units: Sequence[Hashable], sign: float
) -> list[Transferred]:
    """Test each candidate on the examples of other units.

    Args:
        changes: `[candidates, examples]` nats.
        candidates: In the order of the rows.
        units: Per example, the cluster or document that makes it depend on other examples; each unit counts once, by
            the mean over its examples.
        sign: 1 where a rise is wanted, -1 where a fall is.

    Raises:
        GrainsError: too few units for a test.
    """
    names = list(dict.fromkeys(units))
    if len(names) - 1 < _FEWEST_UNITS:
        raise GrainsError(
            f"selection by transfer tests each token on other documents; there are {len(names)} documents or clusters, "
            f"and {_FEWEST_UNITS + 1} are needed"
        )
    member = torch.tensor([[unit == name for unit in units] for name in names], dtype=torch.float64)
    means = changes.double() @ (member / member.sum(dim=1, keepdim=True)).T  # [candidates, units]
    found: list[Transferred] = []
    for row, (example, _) in zip(means, candidates, strict=True):
        others = sign * row[[index for index, name in enumerate(names) if name != units[example]]]
        mean, error = float(others.mean()), float(others.std() / len(others) ** 0.5)
        statistic = mean / error if error > 0 else float("inf") * mean if mean else 0.0
        found.append(Transferred(statistic, float(student.sf(statistic, len(others) - 1))))
    return found


def best_of_examples(
    candidates: Sequence[Candidate],
    statistics: Sequence[float],
    examples: int,
    share: float,
    barred: Collection[int] = (),
    per_example: int = 1,
) -> list[int]:
    """Indices of the best candidates of the best `share` of the examples; only those with a positive statistic.

    Args:
        candidates: What was tested.
        statistics: `t` of each.
        examples: Number of examples, those without candidates included.
        share: Of the examples, how many may contribute.
        barred: Indices of candidates that must not be taken.
        per_example: Candidates of an example that may be taken.
    """
    own: dict[int, list[int]] = {}
    order = sorted(range(len(candidates)), key=lambda index: (-statistics[index], candidates[index]))
    for index in order:
        if statistics[index] > 0 and index not in barred:
            own.setdefault(candidates[index][0], []).append(index)
    kept = list(own.values())[: max(1, round(share * examples))]  # in the order of their best
    return [index for each in kept for index in each[:per_example]]

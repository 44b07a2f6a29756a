"""Keys and values of virtual tokens as the attention of one layer takes them, for several settings at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

import torch
from torch import Tensor

from grains_eval.errors import GrainsError
from grains_eval.types import Positions


@dataclass(frozen=True, eq=False)
class ResolvedTokens:
    """`N` virtual tokens that act together, reduced to what attention needs.

    Attributes:
        keys: `{layer: [N, heads, width] float32}`, before rotary position embedding; key-value heads.
        values: `{layer: [N, heads, width] float32}`.
        distances: `[N]` tokens from each query back to the virtual token. Without effect where positions are learned:
            such keys hold the position at which they were read.
        bias: `[N]` natural log of each token's multiplicity, added to its attention logit; finite.

    Raises:
        GrainsError: shapes that disagree.
    """

    keys: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    distances: tuple[int, ...]
    bias: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.distances)
        shapes = {tuple(each.shape[:2]) for part in (self.keys, self.values) for each in part.values()}
        if set(self.keys) != set(self.values) or len(shapes) != 1 or {count, len(self.bias)} != {next(iter(shapes))[0]}:
            raise GrainsError(
                "keys, values, distances and bias of virtual tokens disagree about layers or their number"
            )
        if not all(map(isfinite, self.bias)):
            raise GrainsError("the strength of a virtual token is a finite number here; leave out tokens that are off")

    @property
    def first_layer(self) -> int:
        """The first layer whose output differs from the plain model's."""
        return min(self.keys)

    @property
    def positions(self) -> Positions:
        """Every query after the first token sees virtual tokens."""
        return "all"

    @property
    def count(self) -> int:
        """`N`."""
        return len(self.distances)


@dataclass(eq=False)
class Columns:
    """What every row of a pass sees: `S` settings, each with its own tokens, padded to the same number `N`.

    Attributes:
        settings: Per setting, the tokens that act together; empty for the plain model.
        alternate: Whether row `i` belongs to setting `i % S`; else rows of one setting follow one another.
    """

    settings: tuple[tuple[ResolvedTokens, ...], ...]
    alternate: bool = False
    count: int = field(init=False)
    layers: tuple[int, ...] = field(init=False)
    distances: tuple[tuple[int, ...], ...] = field(init=False)
    _placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)  # pyright: ignore
    _biases: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict, init=False)  # pyright: ignore

    def __post_init__(self) -> None:
        self.count = max((sum(one.count for one in each) for each in self.settings), default=0)
        self.layers = tuple(sorted({layer for each in self.settings for one in each for layer in one.keys}))
        rows = [[distance for one in each for distance in one.distances] for each in self.settings]
        self.distances = tuple((*row, *[0] * (self.count - len(row))) for row in rows)

    @property
    def size(self) -> int:
        """`S`."""
        return len(self.settings)

    def bias(self, layer: int, device: torch.device) -> Tensor:
        """`[S, N]` float32 added to attention logits; minus infinity where a setting has no such token here."""
        if (layer, device) not in self._biases:
            rows = torch.full((self.size, self.count), -inf)
            for row, setting in enumerate(self.settings):
                column = 0
                for one in setting:
                    if layer in one.keys:
                        rows[row, column : column + one.count] = torch.tensor(one.bias)
                    column += one.count
            self._biases[layer, device] = rows.to(device)
        return self._biases[layer, device]

    def free(self, layer: int) -> bool:
        """Whether every bias is zero, so that no mask is needed for it."""
        return not bool(self.bias(layer, torch.device("cpu")).any())

    def stacked(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values `[L, S, N, heads, width]` of `layers`, in their order."""
        if (device, dtype) not in self._placed:
            both: list[Tensor] = []
            for part in ("keys", "values"):
                sample: Tensor = next(iter(getattr(self._first(), part).values()))
                made = torch.zeros(len(self.layers), self.size, self.count, *sample.shape[1:])
                for row, setting in enumerate(self.settings):
                    column = 0
                    for one in setting:
                        held: Mapping[int, Tensor] = getattr(one, part)
                        for index, layer in enumerate(self.layers):
                            if layer in held:
                                made[index, row, column : column + one.count] = held[layer]
                        column += one.count
                both.append(made.to(device, dtype))
            self._placed[device, dtype] = both[0], both[1]
        return self._placed[device, dtype]

    def _first(self) -> ResolvedTokens:
        return next(one for each in self.settings for one in each)

    def rows(self, tensor: Tensor, batch: int) -> Tensor:
        """`[S, ...]` as `[batch, ...]`; a single setting stays `[1, ...]`, which broadcasts."""
        if self.size == 1 or batch == self.size:
            return tensor
        if batch % self.size:
            raise GrainsError(f"a batch of {batch} rows cannot hold {self.size} settings of virtual tokens evenly")
        times = batch // self.size
        return tensor.repeat(times, *[1] * (tensor.ndim - 1)) if self.alternate else tensor.repeat_interleave(times, 0)


def together(settings: Sequence[Sequence[ResolvedTokens]], alternate: bool = False) -> Columns | None:
    """Columns for `S` settings; None where none shows a token."""
    made = Columns(tuple(map(tuple, settings)), alternate)
    return made if made.count else None

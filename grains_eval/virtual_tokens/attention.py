"""Attention functions, registered with transformers, that let queries see key and value columns of no token.

The model's own attention does the arithmetic, so that grouped heads, logit caps, sinks and masks are its own:

- one query per row (a decoded token): the key is rotated to the query's distance and joins the others as a column;
- several queries: no key has the same distance to all of them, so the logits `q . k` of a virtual token ride in a
  dimension of their own: `[q | q.k]` against `[0 | 1]` for the virtual column and against `[key | 0]` for real ones.

A query that sees no token before itself, the first of its row, sees no virtual token either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from grains_eval.errors import GrainsError
from grains_eval.virtual_tokens.columns import Columns
from grains_eval.virtual_tokens.rotary import Angles, rotate, rotation_of

PREFIX = "grains_tokens_"
SUPPORTED = ("eager", "sdpa")
_ALIGNED = 8  # head widths that fused kernels take are multiples of it
Rotated = Callable[[int], Angles]


@dataclass
class Turn:
    """One forward pass: the angles that its rotary modules gave, in the order of the calls.

    Attributes:
        own: Angles of the pass's own positions.
        shifted: Per columns shown, angles `[B or 1, N * n, width]` at each query's distance, token after token.
        masks: Masks with columns, so that layers make each but once.
        keys: Keys of all layers rotated for one query per row, by columns and rotary call.
    """

    own: list[Angles] = field(default_factory=list[Angles])
    shifted: list[dict[int, Angles]] = field(default_factory=list[dict[int, Angles]])
    masks: dict[Any, Any] = field(default_factory=dict[Any, Any])
    keys: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])


@dataclass
class Site:
    """The attention of one layer while something is shown to it or read from it.

    Attributes:
        layer: Index of the layer.
        turn: The pass in flight.
        call: Which of the pass's rotary calls its angles come from; None without rotary positions.
        shown: Columns, those of several contexts side by side.
        read: Where `(keys, values)` of the pass go, keys with their rotation.
    """

    layer: int
    turn: Turn
    call: int | None
    shown: list[Columns] = field(default_factory=list[Columns])
    read: dict[int, tuple[Tensor, Tensor]] | None = None


SITES: WeakKeyDictionary[nn.Module, Site] = WeakKeyDictionary()
# called with every attention module that takes part in a pass, while the sites of a model are looked for
WATCHERS: list[Callable[[nn.Module, Tensor, Tensor], None]] = []


def _own_attention(module: nn.Module, kind: str) -> Callable[..., Any]:
    """The attention that the module would have called."""
    home = sys.modules[type(module).__module__]
    if kind == "eager":
        found = getattr(home, "eager_attention_forward", None)
        if found is None:
            raise GrainsError(
                f"{type(module).__name__} keeps its eager attention to itself, so no virtual token can be shown to it; "
                "load the model with attn_implementation=sdpa"
            )
        return found
    return getattr(home, "ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)[kind]


def _attend(
    kind: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **keywords: Any,
) -> Any:
    """The model's attention over `[B, heads, n, width]`, with the columns that its site shows."""
    inner = _own_attention(module, kind)
    for watch in WATCHERS:
        watch(module, key, value)
    site = SITES.get(module)
    if site is not None and site.read is not None:
        width = query.shape[2]
        site.read[site.layer] = key[:, :, -width:], value[:, :, -width:]
    if site is None or not site.shown or key.shape[2] == 1:
        return inner(module, query, key, value, attention_mask, **keywords)
    if keywords.get("position_bias") is not None:
        raise GrainsError(f"{type(module).__name__} adds position biases to its logits; it shows no virtual tokens")
    if keywords.get("scaling") is None:
        keywords["scaling"] = getattr(module, "scaling", query.shape[-1] ** -0.5)
    if query.shape[2] == 1:
        return _one_query(inner, module, site, query, key, value, attention_mask, keywords)
    return _several_queries(kind, inner, module, site, query, key, value, attention_mask, keywords)


def _one_query(
    inner: Callable[..., Any],
    module: nn.Module,
    site: Site,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    keywords: dict[str, Any],
) -> Any:
    batch, device = query.shape[0], query.device
    keys, values = list[Tensor](), list[Tensor]()
    for columns in site.shown:
        index = columns.layers.index(site.layer)
        rotated = _decoding_keys(module, site, columns, query)[index]
        own = columns.rows(columns.stacked(device, query.dtype)[1][index], batch)
        keys.append(rotated.expand(batch, -1, -1, -1))
        values.append(own.transpose(1, 2).expand(batch, -1, -1, -1))
    key, value = torch.cat([*keys, key], dim=2), torch.cat([*values, value], dim=2)
    if mask is not None or not all(columns.free(site.layer) for columns in site.shown):
        mask = _widened(site, query, key.shape[2], mask, causal=False)
    return inner(module, query, key, value, mask, **keywords)


def _decoding_keys(module: nn.Module, site: Site, columns: Columns, query: Tensor) -> Tensor:
    """`[L, B or 1, heads, N, width]`: the keys of all layers at their distance from the row's one query."""
    known = site.turn.keys.get((id(columns), -1 if site.call is None else site.call))
    if known is not None and known.device == query.device:
        return known
    batch = query.shape[0]
    keys = columns.stacked(query.device, query.dtype)[0]  # [L, S, N, heads, width]
    depth, size, count, heads, width = keys.shape
    if site.call is None:
        made = torch.stack([columns.rows(each, batch) for each in keys]).transpose(2, 3)
    else:
        rows = keys.permute(1, 0, 3, 2, 4).reshape(size, depth * heads, count, width)
        turned = _turn(module, site, columns, columns.rows(rows, batch))
        made = turned.unflatten(1, (depth, heads)).transpose(0, 1)
    site.turn.keys[id(columns), -1 if site.call is None else site.call] = made
    return made


def _turn(module: nn.Module, site: Site, columns: Columns, keys: Tensor) -> Tensor:
    """Rotate `[B or 1, heads, N * n, width]` to the queries' distances."""
    function = rotation_of(module)
    assert function is not None and site.call is not None
    cos, sin = site.turn.shifted[site.call][id(columns)]
    return rotate(function, keys, (cos.to(keys), sin.to(keys)))


def _several_queries(
    kind: str,
    inner: Callable[..., Any],
    module: nn.Module,
    site: Site,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    keywords: dict[str, Any],
) -> Any:
    batch, heads, width = key.shape[0], key.shape[1], query.shape[-1]
    logits, values = list[Tensor](), list[Tensor]()
    for columns in site.shown:
        index = columns.layers.index(site.layer)
        keys, own = (part[index] for part in columns.stacked(query.device, query.dtype))
        logits.append(_logits(module, site, columns, keys, query))
        values.append(columns.rows(own, batch).transpose(1, 2).expand(batch, -1, -1, -1))
    extra = torch.cat(logits, dim=-1)  # [B, query heads, n, N] float32
    count = extra.shape[-1]
    # half precision holds a logit in two parts
    parts = [extra.to(query.dtype)]
    if query.dtype != torch.float32:
        parts.append((extra - parts[0].float()).to(query.dtype))
    total = -(-(width + len(parts) * count) // _ALIGNED) * _ALIGNED
    wide_query = query.new_zeros(*query.shape[:3], total)
    wide_query[..., :width] = query
    wide_key = key.new_zeros(batch, heads, count + key.shape[2], total)
    wide_key[:, :, count:, :width] = key
    column = torch.arange(count, device=key.device)
    for number, part in enumerate(parts):
        start = width + number * count
        wide_query[..., start : start + count] = part
        wide_key[:, :, column, start + column] = 1
    own_width = value.shape[-1]
    # fused kernels want values as wide as keys
    wide_value = value.new_zeros(batch, heads, count + value.shape[2], total if own_width == width else own_width)
    wide_value[:, :, count:, :own_width] = value
    wide_value[:, :, :count, :own_width] = torch.cat(values, dim=2)
    causal = kind != "eager" and bool(keywords.get("is_causal") is not False and getattr(module, "is_causal", True))
    mask = _widened(site, query, wide_key.shape[2], mask, causal)
    output, *rest = inner(module, wide_query, wide_key, wide_value, mask, **keywords)
    return output[..., :own_width].contiguous(), *rest


def _logits(module: nn.Module, site: Site, columns: Columns, keys: Tensor, query: Tensor) -> Tensor:
    """`q . k` before scaling, `[B, query heads, n, N]` float32, of keys `[S, N, heads, width]`."""
    batch, steps = query.shape[0], query.shape[2]
    rows = columns.rows(keys, batch).transpose(1, 2)  # [B or 1, heads, N, width]
    if site.call is None:
        rotated = rows[:, :, :, None]
    else:
        spread = rows[:, :, :, None].expand(-1, -1, -1, steps, -1).flatten(2, 3)
        rotated = _turn(module, site, columns, spread).unflatten(2, (columns.count, steps))
    grouped = query.unflatten(1, (rows.shape[1], -1)).float()  # [B, heads, group, n, width]
    found = torch.einsum("bhgnw,bhcnw->bhgnc", grouped, rotated.float().expand(batch, -1, -1, steps, -1))
    return found.flatten(1, 2)


def _widened(site: Site, query: Tensor, length: int, mask: Tensor | None, causal: bool) -> Tensor:
    """The mask `[B or 1, 1 or heads, n, length]` with columns in front, boolean where that says it all."""
    layer, columns = site.layer, site.shown
    free = all(each.free(layer) for each in columns)
    # layers that differ in their biases have masks of their own
    key = (None if mask is None else id(mask), length, causal, free, -1 if free else layer, query.dtype)
    known = site.turn.masks.get(key)
    if known is not None:
        return known[1]
    batch, steps, device = query.shape[0], query.shape[2], query.device
    count = sum(each.count for each in columns)
    plain = length - count
    if mask is None:
        real = torch.ones(1, 1, steps, plain, dtype=torch.bool, device=device)
        real = real.tril(plain - steps) if causal else real
    else:
        real = mask[..., :plain]
    allowed = real if real.dtype == torch.bool else real > torch.finfo(real.dtype).min / 2
    sees = (allowed.sum(dim=-1, keepdim=True) > 1).expand(-1, -1, -1, count)
    if free:
        shown = sees
    else:
        bias = torch.cat([each.rows(each.bias(layer, device), batch).expand(batch, -1) for each in columns], dim=-1)
        shown = torch.where(sees, bias[:, None, None], -inf)
    if real.dtype == torch.bool and not free:
        real = torch.zeros((), dtype=query.dtype, device=device).where(real, torch.finfo(query.dtype).min)
    if real.dtype != torch.bool:
        lowest = torch.finfo(real.dtype).min
        shown = (
            torch.zeros((), dtype=real.dtype, device=device).where(shown, lowest)
            if shown.dtype == torch.bool
            else shown.clamp_min(lowest).to(real.dtype)
        )
    rows = max(len(shown), len(real))
    made = torch.cat([shown.expand(rows, real.shape[1], -1, -1), real.expand(rows, -1, -1, -1)], dim=-1)
    site.turn.masks[key] = mask, made  # the mask too: its id must stay its own
    return made


def _eager(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **keywords: Any) -> Any:
    return _attend("eager", module, query, key, value, mask, **keywords)


def _sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **keywords: Any) -> Any:
    return _attend("sdpa", module, query, key, value, mask, **keywords)


for _name, _function, _mask in (("eager", _eager, eager_mask), ("sdpa", _sdpa, sdpa_mask)):
    AttentionInterface.register(PREFIX + _name, _function)
    AttentionMaskInterface.register(PREFIX + _name, _mask)

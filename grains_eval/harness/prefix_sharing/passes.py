"""One forward pass that extends rows of an earlier one: shared keys and values, logits only where read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from grains_eval.harness.prefix_sharing.configurations import Stack, TokenRoles, keeping
from grains_eval.models.hooks import DEEPSTACK, decoder_receives, forget_positions, logits_at, noting_decoder
from grains_eval.models.layers import find_decoder, find_layers

# keywords of the decoder that belong to one call and are not replayed in another
_OWN_KEYWORDS = {"input_ids", "inputs_embeds", "past_key_values", "use_cache", "return_dict"}


@dataclass(frozen=True)
class Pass:
    """`R` rows of up to `n` tokens, padded on the right, each continuing one row of an earlier pass.

    Attributes:
        inputs: Keywords of the model's forward; `input_ids [R, n]`, and pixels and the like for an image.
        lengths: `[R]` tokens per row without padding.
        prompts: `[R]` leading tokens of each row that belong to the prompt.
        closes_prompt: Whether the last of those is the last prompt token.
        reads: Row and column of every position whose logits are wanted, `[N]` each.
        parents: `[R]` the row of the earlier pass that each row continues; None for a first pass.
    """

    inputs: Mapping[str, Any]
    lengths: Tensor
    prompts: Tensor
    closes_prompt: bool
    reads: tuple[Tensor, Tensor]
    parents: Tensor | None = None

    def roles(self) -> TokenRoles:
        """Which tokens the position rules of steering mean."""
        column = torch.arange(int(self.lengths.max()))[None]
        last = column == self.prompts[:, None] - 1
        return TokenRoles(column < self.prompts[:, None], last if self.closes_prompt else torch.zeros_like(last))


@dataclass(frozen=True)
class State:
    """What a pass leaves behind, for `S` configurations.

    Attributes:
        logits: `[S, N, V]`.
        cache: Keys and values `[S * R, heads, length, width]` per layer; layers that were skipped hold none.
            None where nothing continues the pass.
        lengths: `[R]` tokens so far, the parents' included.
        next_position: `[R]` position id of the next token (not `lengths` where image tokens share positions).
        position_axes: `(axes,)` of multimodal position ids, else empty.
        kept: Saved layer outputs by index.
        replay: What the decoder received, where an image's pass is to be repeated without its vision tower.
    """

    logits: Tensor
    cache: DynamicCache | None
    lengths: Tensor
    next_position: Tensor
    position_axes: tuple[int, ...] = ()
    kept: Mapping[int, Any] = field(default_factory=dict[int, Any])
    replay: Mapping[str, Any] = field(default_factory=dict[str, Any])


class _Branch(DynamicLayer):
    """Keys and values of earlier rows, each read by several new rows; the originals are never touched.

    Where the earlier rows have different lengths they are aligned at their ends, so that distances (sliding
    windows) and positions stay right; the padding this puts in front is masked.
    """

    def __init__(
        self, source: DynamicLayer | None, length: int, index: tuple[Tensor, Tensor] | None, keep: bool
    ) -> None:
        super().__init__()
        self.source, self.length, self.index, self.keep = source, length, index, keep

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        del args, kwargs
        assert self.source is not None and self.source.keys is not None and self.source.values is not None
        keys, values = self._join(self.source.keys, key_states), self._join(self.source.values, value_states)
        if self.keep:
            self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values

    def _join(self, old: Tensor, new: Tensor) -> Tensor:
        if self.index is not None:
            rows, columns = self.index
            gathered = old.transpose(1, 2)[rows.to(old.device)[:, None], columns.to(old.device)]
            return torch.cat([gathered.transpose(1, 2), new], dim=2)
        parents, children = len(old), len(new) // len(old)
        joined = new.new_empty(parents, children, new.shape[1], self.length + new.shape[2], new.shape[3])
        joined[..., : self.length, :] = old[:, None, :, : self.length]
        joined[..., self.length :, :] = new.unflatten(0, (parents, children))
        return joined.flatten(0, 1)


class Runner:
    """Runs passes of one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.layers = find_layers(model)
        self.decoder = find_decoder(model)
        # offloaded parameters are on `meta`
        self.device = next((each.device for each in model.parameters() if not each.is_meta), torch.device("cpu"))

    @torch.no_grad()
    def run(
        self,
        plan: Pass,
        stack: Stack,
        past: State | None = None,
        base: State | None = None,
        *,
        keep: Sequence[int] = (),
        keep_cache: bool = True,
    ) -> State:
        """Run one pass for every configuration of a stack.

        Args:
            plan: What to run.
            stack: The configurations; one empty configuration is the plain model.
            past: The state of the same stack after the earlier pass, or of the plain model where that is the same.
            base: The state of the same pass without steering, to resume from; None computes every layer.
            keep: Layers whose outputs are saved.
            keep_cache: Whether another pass will continue this one.
        """
        size, rows = stack.size, len(plan.lengths)
        if past is None:
            forget_positions(self.model)  # of the image before
        has_images = set(plan.inputs) != {"input_ids"}
        seen: dict[str, Any] = {}
        kept: dict[int, Any] = {}
        with ExitStack() as hooks:
            hooks.enter_context(stack.applied(plan.roles()))
            hooks.enter_context(logits_at(self.model, _reading(plan.reads, size, rows)))
            hooks.enter_context(keeping(self.layers, keep, kept))
            if base is not None:
                hooks.enter_context(stack.resumed(base.kept))
            if has_images and base is not None:
                embeddings = base.replay["inputs_embeds"]
                keywords: dict[str, Any] = {"inputs_embeds": embeddings.repeat(size, 1, 1)}
                hooks.enter_context(decoder_receives(self.model, _replayed(base.replay, size), size))
            else:
                keywords = {name: _repeat(value, size, self.device) for name, value in plan.inputs.items()}
                if has_images:
                    hooks.enter_context(noting_decoder(self.model, seen))
            keywords |= self._continuing(plan, past, size, keep_cache)
            cache: DynamicCache | None = keywords["past_key_values"]
            output = self.model(**keywords, use_cache=cache is not None)
        reads = len(plan.reads[0])
        logits: Tensor = output.logits
        if logits.shape[:2] != (1, size * reads):
            raise RuntimeError(f"{type(self.model).__name__} computes logits past its output embeddings")
        state = self._after(plan, past, seen if base is None else base.replay)
        return State(logits.reshape(size, reads, logits.shape[-1]), cache, *state, kept, seen)

    def _continuing(self, plan: Pass, past: State | None, size: int, keep: bool) -> dict[str, Any]:
        """Cache, position ids and, where parents differ in length, the mask of their padding."""
        if past is None or past.cache is None or plan.parents is None:
            return {"past_key_values": DynamicCache() if keep else None}
        lengths = past.lengths[plan.parents]
        length, parents, width = int(lengths.max()), len(past.lengths), int(plan.lengths.max())
        own = len(past.logits) == size  # otherwise every configuration continues the same rows
        # padded cells repeat the row's last position: learned positions have no row to spare
        step = torch.minimum(torch.arange(width)[None], (plan.lengths - 1)[:, None])
        positions = (past.next_position[plan.parents][:, None] + step).repeat(size, 1)
        keywords: dict[str, Any] = {"position_ids": positions.to(self.device).expand(*past.position_axes, -1, -1)}
        children, rest = divmod(len(plan.parents), parents)
        even = not rest and torch.equal(plan.parents, torch.arange(parents).repeat_interleave(children))
        even &= own or parents == 1
        index: tuple[Tensor, Tensor] | None = None
        if not even or bool((past.lengths != length).any()):
            column = torch.arange(length)[None] - (length - lengths)[:, None]
            rows = torch.cat([plan.parents + s * parents * own for s in range(size)])
            index = rows.to(self.device), column.clamp_min(0).repeat(size, 1).to(self.device)
            if bool((column < 0).any()):
                mask = torch.cat([(column >= 0).long(), torch.ones(len(lengths), width, dtype=torch.long)], dim=1)
                keywords["attention_mask"] = mask.repeat(size, 1).to(self.device)
        cache, held = DynamicCache(), past.cache.layers
        cache.layer_class_to_replicate = None
        cache.layers = [  # pyright: ignore[reportAttributeAccessIssue]
            _Branch(_filled(held[i] if i < len(held) else None), length, index, keep) for i in range(len(self.layers))
        ]
        return keywords | {"past_key_values": cache}

    def _after(self, plan: Pass, past: State | None, seen: Mapping[str, Any]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        if past is not None and plan.parents is not None:
            return (
                past.lengths[plan.parents] + plan.lengths,
                past.next_position[plan.parents] + plan.lengths,
                past.position_axes,
            )
        positions = seen.get("position_ids")
        if isinstance(positions, Tensor) and positions.ndim == 3:  # [axes, R, n]: time, height, width
            return plan.lengths, positions.amax(dim=(0, 2)).cpu() + 1, (positions.shape[0],)
        if isinstance(positions, Tensor) and positions.ndim == 2:  # PaliGemma counts from 1
            return plan.lengths, plan.lengths + int(positions.min()), ()
        return plan.lengths, plan.lengths, ()


def _reading(reads: tuple[Tensor, Tensor], size: int, rows: int) -> Callable[[Tensor], Tensor]:
    """From hidden states `[S * R, n, H]` to `[1, S * N, H]`: every configuration's read positions in turn."""
    row = torch.cat([reads[0] + s * rows for s in range(size)])
    column = reads[1].repeat(size)
    return lambda hidden: hidden[row.to(hidden.device), column.to(hidden.device)][None]


def _replayed(seen: Mapping[str, Any], size: int) -> dict[str, Any]:
    """What the decoder received, for `size` configurations."""
    kept = {name: value for name, value in seen.items() if name not in _OWN_KEYWORDS}
    if kept.get(DEEPSTACK) is not None:  # rows of visual tokens, one configuration after another
        kept[DEEPSTACK] = [level.repeat(size, 1) for level in kept[DEEPSTACK]]
    return kept


def _filled(layer: Any) -> DynamicLayer | None:
    return layer if layer is not None and layer.keys is not None else None


def _repeat(value: Any, size: int, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.to(device)
    return value if size == 1 else value.repeat(size, *[1] * (value.ndim - 1))

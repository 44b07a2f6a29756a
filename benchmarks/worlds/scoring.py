"""Whether a model finds the gold choice of an item the likeliest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.worlds.text_world import Item
from benchmarks.worlds.tokenizers import encode_answers, encode_prompts

_ROWS = 2048  # in one pass


@torch.no_grad()
def right(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item], copies: int = 1) -> Tensor:
    """`[copies, items]` 1.0 where the gold choice is the likeliest, by the sum of its tokens' log-probabilities.

    Rows of one length share a pass, unpadded. With `copies`, each pass holds its rows so many times, copy after copy,
    for virtual tokens that differ from copy to copy.
    """
    prompts = encode_prompts(tokenizer, [item["prompt"] for item in items])
    # by length, each row once: what a choice's last token is predicted from, and the choices that it scores
    passes: dict[int, dict[tuple[int, ...], list[tuple[int, int, list[int]]]]] = {}
    for i, (prompt, item) in enumerate(zip(prompts, items, strict=True)):
        for choice, ids in enumerate(encode_answers(tokenizer, item["choices"])):
            row = (*prompt, *ids[:-1])
            passes.setdefault(len(row), {}).setdefault(row, []).append((i, choice, ids))
    scores = torch.full((copies, len(items), max(len(item["choices"]) for item in items)), -torch.inf)
    for same in passes.values():
        uses = list(same.values())
        longest = max(len(ids) for each in uses for _, _, ids in each)
        size = max(1, _ROWS // copies)
        for start in range(0, len(uses), size):
            rows = torch.tensor(list(same)[start : start + size])
            logits = model(input_ids=rows.repeat(copies, 1), logits_to_keep=longest).logits
            found = logits.log_softmax(-1).view(copies, len(rows), longest, -1)
            for row, each in enumerate(uses[start : start + size]):
                for i, choice, ids in each:
                    scores[:, i, choice] = found[:, row, range(longest - len(ids), longest), ids].sum(-1)
    return (scores.argmax(-1) == torch.tensor([item["gold"] for item in items])).float()


__all__ = ["right"]

"""Encode a text example exactly as the harness would score it."""

from __future__ import annotations

from typing import cast

import torch
from lm_eval.models.utils import has_bos_prefix
from torch import Tensor, nn

from grains_eval.errors import GrainsError
from grains_eval.models.chat import render
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.loading import LoadedModel
from grains_eval.types import PreferenceExample


def encode_responses(loaded: LoadedModel, example: PreferenceExample, prompt: str) -> tuple[list[int], Tensor, Tensor]:
    """Token ids of prompt, `y+` and `y-`.

    Both are tokenized together, and the prompt's ids must be a prefix of the whole: characters are never counted.

    Raises:
        GrainsError: empty prompt or response, a response that does not extend the prompt, or one past the context.
    """
    if not prompt.strip():
        raise GrainsError(f"example {example.id}: the prompt is empty; attribution needs prompt tokens")
    lm, prompts, responses = loaded.lm, list[list[int]](), list[Tensor]()
    for name, response in (("chosen", example.chosen), ("rejected", example.rejected)):
        if not response.strip():
            raise GrainsError(f"example {example.id}: the {name} response is empty")
        # lm-eval moves trailing spaces of the prompt to the response; so the prompt's ids are the same for both
        prompt_ids, response_ids = lm._encode_pair(prompt, response)
        whole = lm.tok_encode(prompt + response)
        if whole[: len(prompt_ids)] != prompt_ids or not response_ids:
            raise GrainsError(
                f"example {example.id}: the {name} response '{response[:40]}' does not extend the prompt under this "
                "tokenizer (it changes the prompt's last token); start it with a space or end the prompt differently"
            )
        if len(whole) > lm.max_length:
            raise GrainsError(
                f"example {example.id}: prompt and {name} response have {len(whole)} tokens but the model takes "
                f"{lm.max_length}; shorten it or raise max_length"
            )
        prompts.append(prompt_ids)
        responses.append(torch.tensor(response_ids))
    return prompts[0], responses[0], responses[1]


def candidates(loaded: LoadedModel, prompt: str, prompt_ids: list[int], spans: list[tuple[int, int]]) -> Tensor:
    """`[T]` bool: tokens that are neither special nor part of the chat template."""
    tokenizer = loaded.tokenizer
    special = set(tokenizer.all_special_ids)
    special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    allowed = torch.tensor([index not in special for index in prompt_ids])
    if not tokenizer.is_fast or spans == [(0, len(prompt))]:
        return allowed
    bos = has_bos_prefix(prompt, cast("str | None", tokenizer.bos_token))
    kept = prompt.rstrip()  # lm-eval moves trailing spaces to the response
    encoding = tokenizer(kept, add_special_tokens=not bos, return_offsets_mapping=True)
    if list(encoding["input_ids"]) != prompt_ids:
        encoding = tokenizer(kept, add_special_tokens=False, return_offsets_mapping=True)
    if list(encoding["input_ids"]) != prompt_ids:
        raise GrainsError("the tokenizer gives no character offsets for this prompt; give it as plain text")
    inside = [
        any(start < span_end and end > span_start for span_start, span_end in spans)
        for start, end in encoding["offset_mapping"]
    ]
    return allowed & torch.tensor(inside)


@torch.no_grad()
def encode_text(loaded: LoadedModel, example: PreferenceExample) -> EncodedExample:
    """Encode a text example; see `EncodedExample` for shapes.

    Raises:
        GrainsError: see `render` and `encode_responses`.
    """
    prompt, spans = render(loaded, example.prompt)
    prompt_ids, chosen, rejected = encode_responses(loaded, example, prompt)
    embed = cast(nn.Embedding, loaded.model.get_input_embeddings())
    device = embed.weight.device
    input_ids = torch.tensor(prompt_ids, device=device)
    return EncodedExample(
        example=example,
        input_ids=input_ids,
        tokens=tuple(loaded.tokenizer.convert_ids_to_tokens(prompt_ids)),
        embeddings=embed(input_ids).detach(),
        is_image=torch.zeros(len(prompt_ids), dtype=torch.bool),
        is_candidate=candidates(loaded, prompt, prompt_ids, spans),
        chosen=chosen.to(device),
        rejected=rejected.to(device),
        patches=(None,) * len(prompt_ids),
    )

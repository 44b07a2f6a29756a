"""Prompts as vLLM takes them: token ids, with soft tokens among them where there are any."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.harness.insertion import Insertion
from grains_eval.types import TokenConfig
from grains_eval.vllm.batches import Batch
from grains_eval.vllm.library import NAME


def prompt_of(row: Sequence[int], inserted: Insertion | None = None) -> Mapping[str, Any]:
    """A prompt for `LLM.generate`.

    Args:
        row: Token ids; those from the size of the vocabulary on are soft tokens of `inserted`.
        inserted: What stands in every prompt.
    """
    known = [inserted is None or token < inserted.vocabulary for token in row]
    if inserted is None or all(known):
        return {"prompt_token_ids": list(row)}
    embeddings = torch.zeros(len(row), inserted.soft.shape[-1])
    for position, token in enumerate(row):
        if not known[position]:
            embeddings[position] = inserted.soft[token - inserted.vocabulary]
    return {
        "prompt_token_ids": [token if own else 0 for token, own in zip(row, known, strict=True)],
        "prompt_embeds": embeddings,
        "prompt_is_token_ids": known,
    }


def text_batch(
    keys: Sequence[Hashable],
    rows: Sequence[Sequence[int]],
    parameters: Sequence[Any],
    lengths: Sequence[int],
    inserted: Insertion | None,
) -> Batch:
    """Requests without images, see `Batch` and `prompt_of`."""
    return Batch(keys, lambda index: prompt_of(rows[index], inserted), [len(row) for row in rows], parameters, lengths)


def check_kind(item: AppliedArtifact) -> None:
    """Refuse what an engine cannot apply.

    Raises:
        GrainsError: an adapter, a contrast, or found tokens as keys and values.
    """
    if item.artifact.adapter is not None:
        raise GrainsError(
            f"'{item.source}' is a LoRA artifact; give lora_local_path={item.artifact.adapter} instead of vectors"
        )
    if item.artifact.contrast is not None:
        raise GrainsError(f"'{item.source}' contrasts two prompts, which {NAME} cannot; use grains_hf")
    if item.artifact.tokens is not None and not item.is_inserted and item.resolved is not None:
        raise GrainsError(
            f"'{item.source}' holds found tokens as keys and values (form=kv), which {NAME} cannot show; "
            "give form=embedding or form=text, or use grains_hf"
        )


def needs_embeddings(item: AppliedArtifact) -> bool:
    """Whether an artifact puts soft tokens into prompts."""
    return item.is_inserted and isinstance(item.config, TokenConfig) and item.config.form == "embedding"


def check_soft_tokens(item: AppliedArtifact, model_config: Any) -> None:
    """Refuse soft tokens that do not fit an engine.

    Raises:
        GrainsError: an engine that takes token ids alone, or another width.
    """
    if not needs_embeddings(item) or item.artifact.tokens is None:
        return
    if not model_config.enable_prompt_embeds:
        raise GrainsError("this engine was started without room for soft tokens; give enable_prompt_embeds=True")
    width, own = item.artifact.tokens.positive.embeddings.shape[-1], int(model_config.get_hidden_size())
    if width != own:
        raise GrainsError(f"found tokens have embeddings of width {width} but the model needs {own}; build them for it")

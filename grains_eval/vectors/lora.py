"""The LoRA baseline: a low-rank adapter trained on the same preference examples (peft).

Hu et al. 2021, arXiv 2106.09685, trained with direct preference optimisation (Rafailov et al. 2023, arXiv
2305.18290, equation 7): `-log sigmoid(beta (F(x) - F_ref(x)))` with `F(x) = log p(y+ | x) - log p(y- | x)` of
the adapted and of the untouched model. Only the text decoder is adapted; images reach it as usual.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from grains_eval.artifacts.save import save_tensors
from grains_eval.errors import GrainsError, first_line
from grains_eval.models import EncodedExample, LoadedModel
from grains_eval.models.forward import response_logprobs
from grains_eval.models.layers import find_layers
from grains_eval.recipes import Count, Section
from grains_eval.vectors.registry import method

Positive = Annotated[float, Field(gt=0)]

# names of query and value projections, and of those that hold query, key and value in one
_QUERY_VALUE = ("q_proj", "v_proj", "query", "value")
_FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv")


class Options(Section):
    """`vectors.options` of `lora`."""

    rank: Count = 8
    alpha: Positive = 16
    beta: Positive = Field(0.1, description="strength of DPO's tie to the untouched model")
    learning_rate: Positive = 1e-3
    epochs: Count = 16
    batch_size: Count = Field(8, description="examples per step; they run one at a time")
    target_modules: list[str] | None = Field(None, description="names of projections; default query and value")


@dataclass(frozen=True)
class Trained:
    """A training run.

    Attributes:
        config: What peft needs to load the adapter.
        checkpoints: Adapter weights on the CPU, untrained and then after every epoch.
        losses: Mean DPO loss of every epoch, nats; log 2 where nothing was learned.
    """

    config: LoraConfig
    checkpoints: tuple[Mapping[str, Tensor], ...]
    losses: tuple[float, ...]


def find_targets(model: PreTrainedModel, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Query and value projections of the text decoder's layers by full name, or else fused ones.

    Args:
        model: The model.
        names: Last parts of the names to look for instead.

    Raises:
        GrainsError: there are none.
    """
    inside = {id(module) for layer in find_layers(model) for module in layer.modules()}
    found: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if id(module) in inside}
    for wanted in (names,) if names is not None else (_QUERY_VALUE, _FUSED):
        targets = {name: module for name, module in found.items() if name.rsplit(".", 1)[-1] in wanted}
        if targets:
            return targets
    known = sorted(
        {name.rsplit(".", 1)[-1] for name, module in found.items() if isinstance(module, nn.Linear | Conv1D)}
    )
    raise GrainsError(
        f"{type(model).__name__}: no projection is called {', '.join(names or _QUERY_VALUE + _FUSED)}; set "
        f"vectors.options.target_modules to some of {', '.join(known)}"
    )


def lora_config(model: PreTrainedModel, options: Options) -> LoraConfig:
    """Peft's configuration; modules are listed by full name, so that no vision tower is adapted too."""
    targets = find_targets(model, options.target_modules)
    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # pyright: ignore[reportArgumentType] - any number will do
        lora_dropout=0.0,
        target_modules=list(targets),
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in targets.values()),
        base_model_name_or_path=model.name_or_path or None,
        inference_mode=True,
    )


@contextmanager
def adapted(model: PreTrainedModel, config: LoraConfig, seed: int) -> Generator[PeftModel, None, None]:
    """Attach a fresh adapter inside the block; afterwards the model is bit-identical to what it was.

    Raises:
        GrainsError: peft cannot adapt the target modules.
    """
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:
            raise GrainsError(f"{type(model).__name__} cannot be adapted: {first_line(error)}") from error
    try:
        for name, parameter in wrapped.named_parameters():
            parameter.requires_grad_("lora_" in name)
        yield wrapped  # pyright: ignore[reportReturnType]
    finally:
        wrapped.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])
        if hasattr(model, "peft_config"):
            del model.peft_config


def preference_loss(margin: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO's loss of `[N]` margins `F(x)` against those of the untouched model, nats, mean over examples."""
    return -torch.nn.functional.logsigmoid(beta * (margin - reference)).mean()


@method("lora", makes="adapter", is_baseline=True)
def train(
    loaded: LoadedModel,
    examples: Sequence[EncodedExample],
    options: Options,
    seed: int,
    after_epoch: Callable[[int], None] | None = None,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = lambda items, description: items,
) -> Trained:
    """A low-rank adapter trained with direct preference optimisation, kept after every epoch.

    The model stays in evaluation mode throughout and there is no dropout, so that the same seed gives the
    same adapter.

    Args:
        loaded: The model; as it was when this returns.
        examples: Build examples.
        options: Rank, rates and counts.
        seed: Of the adapter's initial weights and of the order of examples.
        after_epoch: Called with 0 before training and with the number of each finished epoch, while the
            adapter acts.
        progress: Wraps the loop over epochs, with a description.

    Raises:
        GrainsError: no target modules, or a loss that is not finite.
    """
    model = loaded.model
    config = lora_config(model, options)
    with torch.no_grad():
        references = torch.stack([_margin(model, example) for example in examples])
    order = torch.Generator().manual_seed(seed)
    checkpoints, losses = list[Mapping[str, Tensor]](), list[float]()
    with adapted(model, config, seed) as wrapped:
        parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
        _keep(wrapped, checkpoints)
        if after_epoch is not None:
            after_epoch(0)
        for epoch in progress(range(options.epochs), "training"):
            total = 0.0
            for batch in torch.randperm(len(examples), generator=order).split(options.batch_size):
                optimiser.zero_grad()
                for index in batch.tolist():
                    with torch.enable_grad():
                        loss = preference_loss(
                            _margin(model, examples[index])[None], references[index, None], options.beta
                        )
                        (loss / len(batch)).backward()
                    total += float(loss.detach())
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
            losses.append(total / len(examples))
            if not torch.isfinite(torch.tensor(losses[-1])):
                raise GrainsError(f"the loss of epoch {epoch + 1} is not finite; lower vectors.options.learning_rate")
            _keep(wrapped, checkpoints)
            if after_epoch is not None:
                after_epoch(epoch + 1)
    return Trained(config, tuple(checkpoints), tuple(losses))


def _margin(model: PreTrainedModel, example: EncodedExample) -> Tensor:
    """`F(x)`, nats."""
    scores = response_logprobs(model, example, example.embeddings[None])[0]
    return scores[0] - scores[1]


def _keep(wrapped: PeftModel, checkpoints: list[Mapping[str, Tensor]]) -> None:
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    checkpoints.append({name: value.detach().cpu().clone().contiguous() for name, value in state.items()})


def save_adapter(trained: Trained, epoch: int, folder: Path) -> Path:
    """Write a checkpoint as a standard peft folder: `adapter_config.json` and `adapter_model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        name: sorted(value) if isinstance(value, set) else value for name, value in trained.config.to_dict().items()
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_tensors(trained.checkpoints[epoch], folder / "adapter_model.safetensors", ("format", "pt"))
    return folder

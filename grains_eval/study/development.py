"""What settings are chosen on: preference examples, and items of the preserved tasks that are never reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from grains_eval.errors import GrainsError
from grains_eval.harness.rows import Score
from grains_eval.harness.shared_context import score
from grains_eval.harness.sharing import shareable
from grains_eval.harness.stacking import Configuration
from grains_eval.models import EncodedExample, LoadedModel, encode
from grains_eval.models.forward import response_logprobs
from grains_eval.preferences import doc_hash, load_task, task_manager
from grains_eval.preferences.splits import draw
from grains_eval.preferences.tasks import split_docs
from grains_eval.recipes import Recipe
from grains_eval.steering import applied
from grains_eval.types import PreferenceExample
from grains_eval.vectors.context import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChoiceItem:
    """A multiple-choice item of a preserved task.

    Attributes:
        doc_hash: Its document.
        requests: Token ids of context and continuation, one per choice.
        gold: Indices of right choices.
    """

    doc_hash: str
    requests: tuple[tuple[list[int], list[int]], ...]
    gold: frozenset[int]


@dataclass(frozen=True)
class DevelopmentSet:
    """Disjoint from what builds the vector and from what is reported.

    Attributes:
        preference: Encoded preference examples.
        preserved: Items whose accuracy must not fall.
        notes: What could not be had, in words.
    """

    preference: tuple[EncodedExample, ...]
    preserved: tuple[ChoiceItem, ...] = ()
    notes: tuple[str, ...] = ()

    def preserved_hashes(self) -> list[str]:
        """Documents that comparisons must leave out, besides the preference examples'."""
        return sorted(item.doc_hash for item in self.preserved)


def development_set(
    loaded: LoadedModel,
    preference: Sequence[PreferenceExample],
    recipe: Recipe,
    include_path: Sequence[str] = (),
) -> DevelopmentSet:
    """Encode preference examples and draw as many items of the preserved tasks, evenly over their subtasks.

    Preserved tasks that are no text multiple choice, or whose data cannot be had, are left out and noted.
    """
    notes: list[str] = []
    tasks: list[ConfigurableTask] = []
    manager = task_manager(recipe.evaluation.preserve, include_path, recipe.data.metadata)
    for name in recipe.evaluation.preserve:
        try:
            if name in manager.all_subtasks:
                tasks.append(load_task(name, include_path, recipe.data.metadata))
            else:
                leaves = cast("dict[str, ConfigurableTask]", manager.load([name])["tasks"])
                choices = (task for task in leaves.values() if task.OUTPUT_TYPE == "multiple_choice")
                tasks.extend(task for task in choices if not getattr(task, "multiple_input", False))
        except Exception as error:  # an unreachable hub must not stop a build, but it must be said
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            notes.append(f"'{name}' is not watched while choosing: {reason}")
    share = -(-recipe.data.development // len(tasks)) if tasks else 0
    items = [item for task in tasks for item in _items(loaded, task, share, recipe)]
    for note in notes:
        logger.warning("%s", note)
    encoded = tuple(encode(loaded, example, recipe.attribution.visual_baseline) for example in preference)
    return DevelopmentSet(encoded, tuple(items[: recipe.data.development]), tuple(notes))


def _items(loaded: LoadedModel, task: ConfigurableTask, count: int, recipe: Recipe) -> list[ChoiceItem]:
    # the split that is not reported where there is one, else some documents of the reported one
    docs = split_docs(task, "validation" if task.has_validation_docs() and task.has_test_docs() else None)
    found: list[ChoiceItem] = []
    for index in draw(docs, count, recipe.data.seed, frozenset()):
        doc: Any = docs[index]
        chat: dict[str, Any] = {
            "apply_chat_template": recipe.data.chat_template,
            "chat_template": loaded.lm.apply_chat_template if recipe.data.chat_template else None,
        }
        context = task.fewshot_context(
            doc,
            num_fewshot=task.get_config("num_fewshot") or 0,
            fewshot_as_multiturn=recipe.data.chat_template,
            gen_prefix=task.doc_to_prefix(doc),
            **chat,
        )
        choices: list[str] = task.doc_to_choice(doc)
        made = task.construct_requests(doc=doc, ctx=context, metadata=(task.task_name, index, 1), **chat)
        requests = cast("list[Any]", made)[: len(choices)]
        if any(len(request.args) > 2 for request in requests):
            continue  # a picture: the text of a preserved task says little without it
        target = task.doc_to_target(doc)
        gold = target if isinstance(target, list) else [target]
        found.append(
            ChoiceItem(
                doc_hash(doc),
                tuple(loaded.lm._encode_pair(*request.args[:2]) for request in requests),
                frozenset(choices.index(g) if isinstance(g, str) else int(g) for g in gold),
            )
        )
    return found


@torch.no_grad()
def preference_margins(
    loaded: LoadedModel,
    examples: Sequence[EncodedExample],
    configurations: Sequence[Configuration],
    progress: Progress = silent,
) -> torch.Tensor:
    """`log p(y+ | x) - log p(y- | x)` of `N` examples under `S` configurations: `[S, N]` float32, nats."""
    if not examples:
        raise GrainsError("there are no development examples; set data.development above 0")
    if any(example.decoder_keywords for example in examples):  # pictures: replay the decoder
        rows: list[list[float]] = [[] for _ in configurations]
        for example in progress(examples, "development examples"):
            for row, configuration in zip(rows, configurations, strict=True):
                pair = _replayed(loaded, example, configuration)
                row.append(pair[0] - pair[1])
        return torch.tensor(rows)
    requests = [
        (example.input_ids.tolist(), response.tolist())
        for example in examples
        for response in (example.chosen, example.rejected)
    ]
    scores = _score(loaded, requests, configurations)
    sums = torch.tensor([[each[0] for each in found] for found in scores])
    return sums[:, 0::2] - sums[:, 1::2]


def _replayed(loaded: LoadedModel, example: EncodedExample, configuration: Configuration) -> list[float]:
    if not configuration:
        return response_logprobs(loaded.model, example, example.embeddings[None])[0].tolist()
    with applied(loaded.model, configuration[0]):
        return _replayed(loaded, example, configuration[1:])


def preserved_accuracy(
    loaded: LoadedModel, items: Sequence[ChoiceItem], configurations: Sequence[Configuration]
) -> list[float]:
    """Accuracy per configuration, one pass for all; NaN where there is nothing to preserve."""
    if not items:
        return [float("nan")] * len(configurations)
    requests = [request for item in items for request in item.requests]
    scores = _score(loaded, requests, configurations)
    accuracies: list[float] = []
    for found in scores:
        right, start = 0, 0
        for item in items:
            values = [each[0] for each in found[start : start + len(item.requests)]]
            right += values.index(max(values)) in item.gold
            start += len(item.requests)
        accuracies.append(right / len(items))
    return accuracies


def _score(
    loaded: LoadedModel, requests: Sequence[tuple[list[int], list[int]]], configurations: Sequence[Configuration]
) -> list[list[Score]]:
    """Per configuration and request, in float32 as comparisons score; in one pass where contexts can be shared."""
    lm = loaded.lm
    if shareable(loaded.model):
        return score(
            loaded.model,
            requests,
            configurations,
            max_length=lm.max_length,
            batch_size=lm.batch_size,
            softmax_dtype=torch.float32,
        )
    plain: Any = HFLM._loglikelihood_tokens  # pyright: ignore[reportAttributeAccessIssue] - see HarnessModel
    found: list[list[Score]] = []
    for configuration in configurations:
        with ExitStack() as stack:
            for resolved in configuration:
                stack.enter_context(applied(loaded.model, resolved))
            named = [(("", ""), context, answer) for context, answer in requests]
            found.append(plain(lm, named, disable_tqdm=True))
    return found

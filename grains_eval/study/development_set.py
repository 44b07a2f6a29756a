"""What settings are chosen on: preference examples and items of the preserved tasks, none of which is reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from torch import Tensor

from grains_eval.errors import GrainsError, first_line
from grains_eval.examples import doc_hash, load_task, task_manager
from grains_eval.examples.prompts import task_prompt
from grains_eval.examples.sampling import draw
from grains_eval.examples.tasks import gold_choices, split_docs
from grains_eval.harness.image_requests import images_of
from grains_eval.harness.prefix_sharing.configurations import Configuration
from grains_eval.harness.prefix_sharing.targets import Score
from grains_eval.harness.sweep import score_configurations
from grains_eval.lm_eval_versions import loglikelihood_request, read_data, varies_prompt
from grains_eval.models import LoadedModel, prompt_text
from grains_eval.progress import Progress, silent
from grains_eval.questions import NOTHING, Document, QuestionHashes
from grains_eval.recipes import Recipe
from grains_eval.types import PreferenceExample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChoiceItem:
    """A multiple-choice item of a preserved task.

    Attributes:
        doc_hash: Its document.
        requests: What lm-eval would ask of the model, one per choice, images included.
        gold: Indices of right choices.
        question: Hashes of its text.
        shots: The few-shot examples of its prompt.
    """

    doc_hash: str
    requests: tuple[Instance, ...]
    gold: frozenset[int]
    question: QuestionHashes = NOTHING
    shots: tuple[Document, ...] = ()


@dataclass(frozen=True)
class DevelopmentSet:
    """The development set, disjoint from what builds the vector and from what is reported.

    Attributes:
        preference: Preference examples.
        preserved: Items whose accuracy must not fall.
        notes: What is missing and why, in words.
    """

    preference: tuple[PreferenceExample, ...]
    preserved: tuple[ChoiceItem, ...] = ()
    notes: tuple[str, ...] = ()


def development_set(
    loaded: LoadedModel,
    preference: Sequence[PreferenceExample],
    recipe: Recipe,
    include_path: Sequence[str] = (),
) -> DevelopmentSet:
    """Draw as many items of the preserved tasks as there are preference examples, evenly over their subtasks.

    Preserved tasks that are not multiple choice, that show images to a text model, or whose data cannot be loaded are
    left out and noted.
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
                fit = {leaf: task for leaf, task in leaves.items() if _is_choice(task)}
                for task in fit.values():
                    read_data(task)
                tasks.extend(fit.values())
                notes.extend(
                    f"'{leaf}' is not watched while choosing: it is not a multiple choice over answers"
                    for leaf in leaves.keys() - fit.keys()
                )
        except Exception as error:  # an unreachable hub must not stop a build, but it must be said
            reason = first_line(error)
            notes.append(f"'{name}' is not watched while choosing: {reason}")
    share = -(-recipe.data.development // len(tasks)) if tasks else 0
    items: list[ChoiceItem] = []
    for task in tasks:
        found = _items(loaded, task, share, recipe)
        if not loaded.is_vision_language and any(images_of(one) for item in found for one in item.requests):
            notes.append(
                f"'{task.task_name}' is not watched while choosing: it shows images, {type(loaded.model).__name__} "
                "reads text only"
            )
        else:
            items.extend(found)
    for note in notes:
        logger.warning("%s", note)
    return DevelopmentSet(tuple(preference), tuple(items[: recipe.data.development]), tuple(notes))


def _is_choice(task: ConfigurableTask) -> bool:
    return task.OUTPUT_TYPE == "multiple_choice" and not varies_prompt(task)


def _items(loaded: LoadedModel, task: ConfigurableTask, wanted: int, recipe: Recipe) -> list[ChoiceItem]:
    # the split that is not reported where there is one, else some documents of the reported one
    docs = split_docs(task, "validation" if task.has_validation_docs() and task.has_test_docs() else None)
    task.set_fewshot_seed(recipe.data.seed)
    found: list[ChoiceItem] = []
    for index in draw(docs, wanted, recipe.data.seed, frozenset()):
        doc: Any = docs[index]
        chat_lm = loaded.lm if recipe.data.chat_template else None
        asked = task_prompt(task, doc, index, task.get_config("num_fewshot") or 0, chat_lm)
        choices: list[str] = task.doc_to_choice(doc)
        gold = gold_choices(task, doc, choices) if asked.requests else []
        if not gold:  # no gold answer
            continue
        found.append(
            ChoiceItem(
                doc_hash(doc),
                tuple(asked.requests[: len(choices)]),
                frozenset(gold),
                asked.question,
                asked.shots,
            )
        )
    return found


def preference_logprobs(
    loaded: LoadedModel,
    examples: Sequence[PreferenceExample],
    configurations: Sequence[Configuration],
    progress: Progress = silent,
) -> Tensor:
    """`log p(y+ | x)` and `log p(y- | x)` of `N` examples under `S` configurations: `[S, N, 2]` float32, nats.

    Raises:
        GrainsError: no examples, or one that the model cannot take.
    """
    if not examples:
        raise GrainsError("there are no development examples; set data.development above 0")
    requests = [request for example in examples for request in _requests(loaded, example)]
    scores = _score(loaded, requests, configurations, progress)
    return torch.tensor([[each[0] for each in found] for found in scores]).view(len(scores), len(examples), 2)


def _requests(loaded: LoadedModel, example: PreferenceExample) -> list[Instance]:
    """What the harness would be asked of `y+` and of `y-`."""
    prompt = prompt_text(loaded, example)
    shown: tuple[Any, ...] = ({"visual": list(example.images)},) if example.images else ()
    source, _, number = example.id.rpartition(":")  # names the example in errors
    return [
        loglikelihood_request((prompt, response, *shown), index, source, number)
        for index, response in enumerate((example.chosen, example.rejected))
    ]


def chosen_lengths(loaded: LoadedModel, examples: Sequence[PreferenceExample]) -> Tensor:
    """Tokens of each `y+`, `[N]`."""
    pairs = [loaded.lm._encode_pair(prompt_text(loaded, example), example.chosen) for example in examples]
    return torch.tensor([len(answer) for _, answer in pairs])


def preserved_accuracy(
    loaded: LoadedModel,
    items: Sequence[ChoiceItem],
    configurations: Sequence[Configuration],
    progress: Progress = silent,
) -> list[float]:
    """Accuracy per configuration; NaN where there is nothing to preserve."""
    if not items:
        return [float("nan")] * len(configurations)
    requests = [request for item in items for request in item.requests]
    accuracies: list[float] = []
    for found in _score(loaded, requests, configurations, progress):
        right, start = 0, 0
        for item in items:
            values = [each[0] for each in found[start : start + len(item.requests)]]
            right += values.index(max(values)) in item.gold
            start += len(item.requests)
        accuracies.append(right / len(items))
    return accuracies


def _score(
    loaded: LoadedModel, requests: Sequence[Instance], configurations: Sequence[Configuration], progress: Progress
) -> list[list[Score]]:
    """Per configuration and request, by the path that evaluations of this model take."""
    return score_configurations(loaded.scorer, requests, configurations, disable_tqdm=progress is silent)

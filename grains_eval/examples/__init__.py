"""Where preference examples come from: any lm-eval multiple-choice task, a dataset or a file; disjoint splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from grains_eval.errors import GrainsError
from grains_eval.examples.documents import doc_hash, identity
from grains_eval.examples.files import examples_from_rows, read_rows
from grains_eval.examples.sampling import draw
from grains_eval.examples.tasks import examples_from_task, load_task, split_docs, task_manager
from grains_eval.models import LoadedModel
from grains_eval.models.loading import HarnessModel
from grains_eval.questions import UsesDocuments, used_documents
from grains_eval.recipes import Data
from grains_eval.types import PreferenceExample


@dataclass(frozen=True)
class Examples:
    """Disjoint sets of examples.

    Attributes:
        build: What the vector is built from.
        development: What layer and strength are chosen on; never what is reported.
    """

    build: tuple[PreferenceExample, ...]
    development: tuple[PreferenceExample, ...]

    def doc_hashes(self, preserved: Iterable[UsesDocuments] = ()) -> dict[str, list[str]]:
        """Hashes of the documents behind each set, and of their texts; see `used_documents`.

        Args:
            preserved: Further items that settings were chosen on.
        """
        return used_documents(self.build, (*self.development, *preserved))


def load_examples(
    data: Data, model: LoadedModel | HarnessModel | None = None, include_path: Sequence[str] = ()
) -> Examples:
    """Draw build and development examples, without any document in both.

    Args:
        data: The recipe's `data` section.
        model: Needed where `data.chat_template` is set for a task.
        include_path: Folders with the user's own tasks.

    Raises:
        GrainsError: an unknown task or field, unreadable data, or fewer documents than asked.
    """
    lm = model.lm if isinstance(model, LoadedModel) else model
    task = load_task(data.task, include_path, data.metadata) if data.task else None
    if task is not None:
        task.set_fewshot_seed(data.seed)

    def documents(split: str | None) -> Sequence[Any]:
        if task is not None:
            return split_docs(task, split)
        return cast("Sequence[Any]", read_rows(data, split))  # a Dataset is indexed like one

    def convert(docs: Sequence[Any], indices: Sequence[int]) -> Iterator[PreferenceExample]:
        chosen = [(index, docs[index]) for index in indices]
        return examples_from_task(task, chosen, data, lm) if task is not None else examples_from_rows(chosen, data)

    docs = documents(data.split)
    build = draw(docs, data.examples, data.seed, frozenset())
    taken = {identity(docs[i]) for i in build}
    pool = documents(data.development_split) if data.development_split else docs
    if len(build) < data.examples:
        raise GrainsError(
            f"data.examples asks for {data.examples} but {_name(data)} has {len(build)} different documents"
        )
    development = draw(pool, data.development, data.seed + 1, frozenset(taken))
    if len(development) < data.development:
        raise GrainsError(
            f"data.development asks for {data.development} but {_name(data)} has {len(development)} documents beside "
            f"the {data.examples} that build; lower data.examples or data.development"
        )
    return Examples(tuple(convert(docs, build)), tuple(convert(pool, development)))


def _name(data: Data) -> str:
    return f"task '{data.task}'" if data.task else f"'{data.path}'"


__all__ = ["Examples", "doc_hash", "load_examples", "load_task", "task_manager"]

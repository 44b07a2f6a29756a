"""The logged generations of a run, as a judge is asked about them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from grains_eval.comparison.logs.lm_eval import rows as logged_rows
from grains_eval.comparison.runs import Run
from grains_eval.errors import GrainsError
from grains_eval.judging.rubrics import Rubric, render

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Judge:
    """Who judges by what, without where it runs.

    Attributes:
        model: The judge's name at its endpoint.
        rubric: What it is asked.
        generation: Parameters of its requests.
        images: Whether it is shown the images of the questions.
    """

    model: str
    rubric: Rubric
    generation: Mapping[str, Any]
    images: bool = False

    def identity(self) -> dict[str, Any]:
        """What has to be the same for two scores to be compared, as JSON values."""
        return {
            "model": self.model,
            "rubric": self.rubric.name,
            "rubric_hash": self.rubric.fingerprint,
            "generation": dict(self.generation),
            "images": self.images,
        }

    def request(self, text: str, images: Sequence[str]) -> dict[str, Any]:
        """A chat completion request with one user message; images as data URLs."""
        content: Any = text
        if images:
            content = [{"type": "image_url", "image_url": {"url": url}} for url in images]
            content.append({"type": "text", "text": text})
        system = [{"role": "system", "content": self.rubric.system}] if self.rubric.system else []
        messages = [*system, {"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, **self.generation}


def generations(run: Run, task: str) -> list[Row]:
    """The logged rows of a task of generation, one a document, by number.

    Raises:
        GrainsError: no samples, several filters, or a row without a response that is text.
    """
    kind = run.setting("configs", task, "output_type")
    if kind not in (None, "generate_until"):
        raise GrainsError(f"task '{task}' of '{run.name}' is {kind}; a judge reads generations (generate_until)")
    rows = logged_rows(run, task)
    filters = {str(row.get("filter", "none")) for row in rows}
    if len(filters) > 1 and "none" not in filters:
        raise GrainsError(f"task '{task}' has the filters {', '.join(sorted(filters))} and none of the name 'none'")
    kept = [row for row in rows if len(filters) == 1 or row.get("filter", "none") == "none"]
    for row in kept:
        response_of(row, task)
    return sorted(kept, key=lambda row: int(row["doc_id"]))


def response_of(row: Row, task: str) -> str:
    """What the evaluated model answered.

    Raises:
        GrainsError: the row holds no text.
    """
    found: Any = row.get("filtered_resps")
    found = cast(list[Any], found)[0] if isinstance(found, list) and found else found
    if not isinstance(found, str):
        raise GrainsError(f"task '{task}', document {row.get('doc_id')}: its response is no text to be judged")
    return found


def fields_of(row: Row, task: str) -> dict[str, Any]:
    """What a prompt may name: the document's fields, `response`, `target` and `prompt`."""
    doc: Any = row.get("doc")
    document = (
        {str(key): value for key, value in cast(Mapping[Any, Any], doc).items()} if isinstance(doc, Mapping) else {}
    )
    arguments: Any = row.get("arguments")
    first: Any = next(iter(cast(Mapping[str, Any], arguments).values()), {}) if isinstance(arguments, Mapping) else {}
    asked = str(cast(Mapping[str, Any], first).get("arg_0", "")) if isinstance(first, Mapping) else ""
    return {**document, "response": response_of(row, task), "target": str(row.get("target", "")), "prompt": asked}


def requests_of(judge: Judge, task: str, rows: Sequence[Row], images: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The request of each row.

    Args:
        judge: Who is asked.
        task: The task, for errors.
        rows: Its rows.
        images: The data URLs of each row's images.
    """
    found: list[dict[str, Any]] = []
    for row, shown in zip(rows, images, strict=True):
        where = f"rubric '{judge.rubric.name}', task '{task}', document {row['doc_id']}"
        found.append(judge.request(render(judge.rubric.prompt, fields_of(row, task), where), shown))
    return found


def images_of(task: str, rows: Sequence[Row], include_path: Sequence[str] | None) -> list[list[str]]:
    """The images of each row's document as data URLs, as the task gives them to the evaluated model.

    Args:
        task: The task.
        rows: Its rows.
        include_path: Where tasks of one's own are; None where no images are wanted.

    Raises:
        GrainsError: no such task, data that cannot be loaded, or a task without images.
    """
    if include_path is None:
        return [[] for _ in rows]
    from grains_eval.examples.tasks import task_manager
    from grains_eval.lm_eval_versions import read_data

    try:
        made: Any = task_manager([task], include_path).load([task])["tasks"][task]
        read_data(made)
        found = [made.doc_to_image(row["doc"]) for row in rows]
    except GrainsError:
        raise
    except Exception as error:  # datasets raises many kinds for missing files, offline hubs and bad schemas
        raise GrainsError(f"the images of task '{task}' cannot be loaded: {' '.join(str(error).split())}") from error
    if not all(found):
        raise GrainsError(f"task '{task}' has no images; leave --images out")
    return [[_data_url(image) for image in images] for images in found]


def _data_url(image: Any) -> str:
    content = io.BytesIO()
    image.convert("RGB").save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"

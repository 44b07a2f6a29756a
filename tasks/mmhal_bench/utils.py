"""MMHal-Bench documents (Sun et al. 2023, arXiv 2309.14525)."""

from pathlib import PurePosixPath
from typing import Any

from datasets import Dataset
from PIL.Image import Image

from grains_eval.task_support import data as task_data

REPO = "Shengcao1006/MMHal-Bench"
REVISION = "f5f49a938f45ed99e235b8519ba28f76832a2add"
FIELDS = (
    "question_type",
    "question_topic",
    "image_id",
    "image_src",
    "image_content",
    "question",
    "gt_answer",
)
PLACEHOLDER = "<image>"


def load(**_: Any) -> dict[str, Dataset]:
    """Load the questions with all that a judge needs: what the picture shows and the true answer."""
    folder = task_data.fetch(REPO, REVISION, ["response_template.json", "images/*"])
    docs: list[dict[str, Any]] = []
    for index, row in enumerate(task_data.read_json(folder, "response_template.json", FIELDS)):
        # The file links to the pictures' web addresses; the repository holds them under the same names.
        image_path = f"images/{PurePosixPath(row['image_src']).name}"
        doc = {"index": index, **{field: row[field] for field in FIELDS}, "image_path": image_path}
        docs.append({**doc, "image_sha256": task_data.keep_picture_file(folder / image_path)})
    return {"test": task_data.to_dataset(docs)}


def doc_to_text(doc: dict[str, Any]) -> str:
    """Give the bare question after the picture, as the official script does."""
    return f"{PLACEHOLDER}\n{doc['question'].replace(PLACEHOLDER, '').strip()}"


def doc_to_image(doc: dict[str, Any]) -> list[Image]:
    """Give the question's picture."""
    return [task_data.picture(doc["image_sha256"])]


def process_unjudged(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Leave the score to a judge; an empty response needs none."""
    return {"empty": float(not results[0].strip())}

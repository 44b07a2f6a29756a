"""FaithEval documents, prompts and metrics (Ming et al. 2024, arXiv 2410.03727)."""

import logging
import re
import string
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from grains_eval.task_support import data as task_data

logger = logging.getLogger(__name__)

FILES = "data/test-*.parquet"
REVISIONS = {
    "Salesforce/FaithEval-unanswerable-v1.0": "001f1672f4a21cffcc8054da8fe839b225ccc683",
    "Salesforce/FaithEval-inconsistent-v1.0": "main",
    "Salesforce/FaithEval-counterfactual-v1.0": "main",
}

# The prompts and phrases below are the benchmark's own, to the letter and to the blank.
EXPERT = "You are an expert in retrieval question answering. \n"
EXACT = "Please respond with the exact answer only. Do not be verbose or provide extra information.\n"
LETTER = (
    "Please respond with the letter corresponding to the correct answer only (e.g., A, B, C, or D). "
    "Do not be verbose or provide extra information.\n"
)
UNANSWERABLE = "If there is no information available from the context, the answer should be 'unknown'. "
INCONSISTENT = "If there is conflict information or multiple answers from the context, the answer should be 'conflict'."
UNKNOWN_STRICT = ("unknown",)
UNKNOWN = ("unknown", "no answer", "no information", "not", "unclear")
CONFLICT_STRICT = ("conflict",)
CONFLICT = (
    "conflict",
    "multiple answers",
    "disagreement",
    "inconsistent",
    "contradictory",
    "contradiction",
    "inconsistency",
    "two answers",
    "2 answers",
    "conflicting",
)
PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation + "‘’´`"})


def load_unanswerable(**_: Any) -> dict[str, Dataset]:
    """Load questions whose context does not hold the answer."""
    return _load_questions("Salesforce/FaithEval-unanswerable-v1.0")


def load_inconsistent(**_: Any) -> dict[str, Dataset]:
    """Load questions whose context holds contradicting answers."""
    return _load_questions("Salesforce/FaithEval-inconsistent-v1.0")


def _load_questions(repo: str) -> dict[str, Dataset]:
    folder = task_data.fetch(repo, REVISIONS[repo], [FILES])
    return {"test": task_data.to_dataset(task_data.read_parquet(folder, FILES, ("qid", "question", "context")))}


def load_counterfactual(**_: Any) -> dict[str, Dataset]:
    """Load multiple-choice questions whose context contradicts what is commonly known.

    All tasks on this set share these documents, so an item that built a vector is known in each of them.
    """
    repo = "Salesforce/FaithEval-counterfactual-v1.0"
    folder = task_data.fetch(repo, REVISIONS[repo], [FILES])
    rows = task_data.read_parquet(folder, FILES, ("id", "question", "context", "answerKey", "choices")).to_pylist()
    docs = [doc for doc in map(with_letters, rows) if doc is not None]
    if len(docs) < len(rows):
        left_out = len(rows) - len(docs)
        logger.warning("%d of %d questions name no answer among their choices: left out", left_out, len(rows))
    return {"test": task_data.to_dataset(docs)}


def with_letters(row: dict[str, Any]) -> dict[str, Any] | None:
    """Rename the labels (some are 1 to 4, some are three or five) to A, B, ...; None without a right one."""
    labels = [str(label).strip() for label in row["choices"]["label"]]
    texts = list(row["choices"]["text"])
    key = str(row["answerKey"]).strip()
    if key not in labels or len(labels) != len(texts) or len(texts) < 2:
        return None
    gold = labels.index(key)
    return {
        "id": row["id"],
        "question": row["question"],
        "context": row["context"],
        "choices": texts,
        "letters": list(string.ascii_uppercase[: len(texts)]),
        "gold": gold,
        # The letter to reject: the one after the right one, so that over many items no letter is favoured.
        "wrong": (gold + 1) % len(texts),
        "answer": texts[gold],
    }


def _prompt(instruction: str, task: str, doc: dict[str, Any], choices: bool = False) -> str:
    lines = [f"Context: {doc['context']}", f"Question: {doc['question']}"]
    if choices:
        options = zip(doc["letters"], doc["choices"], strict=True)
        lines += ["Choices:", *(f"{letter}. {text}" for letter, text in options)]
    return EXPERT + instruction + task + "\n".join([*lines, "Answer:"])


def prompt_unanswerable(doc: dict[str, Any]) -> str:
    """Ask with leave to say 'unknown'."""
    return _prompt(EXACT, UNANSWERABLE + "\n", doc)


def prompt_inconsistent(doc: dict[str, Any]) -> str:
    """Ask with leave to say 'conflict'."""
    return _prompt(EXACT, INCONSISTENT + "\n", doc)


def prompt_counterfactual(doc: dict[str, Any]) -> str:
    """Ask for the exact answer among the choices."""
    return _prompt(EXACT, "\n", doc, choices=True)


def prompt_letter(doc: dict[str, Any]) -> str:
    """Ask for the letter of the answer."""
    return _prompt(LETTER, "", doc, choices=True)


def prompt_answerable(doc: dict[str, Any]) -> str:
    """Ask an answerable question with leave to say 'unknown'."""
    return _prompt(EXACT, UNANSWERABLE + "\n", doc, choices=True)


def normalise(text: str) -> str:
    """Lower-case, turn underscores and punctuation into blanks, drop articles, squeeze blanks."""
    plain = text.replace("_", " ").lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def says(text: str, phrases: Sequence[str]) -> bool:
    """Tell whether the normalised text contains a phrase, inside words too, as the benchmark does."""
    return any(phrase in normalise(text) for phrase in phrases)


def gives_answer(doc: dict[str, Any], text: str) -> tuple[bool, bool]:
    """Tell whether a reply gives the right choice, strictly and not.

    Strict: the reply is the choice's letter or text and nothing else. Otherwise: it begins with the letter
    set off by a mark or line break, or contains the text.
    """
    letter, answer = doc["letters"][doc["gold"]], normalise(doc["answer"])
    reply = text.strip()
    alone = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", reply)
    is_letter = alone is not None and alone[1].upper() == letter
    begins = re.match(r"\(?([A-Z])(?:[).:,]|\s*\n)", reply)
    strict = is_letter or (bool(answer) and normalise(reply) == answer)
    begins_with_letter = begins is not None and begins[1] == letter
    return strict, strict or begins_with_letter or (bool(answer) and answer in normalise(reply))


def process_unanswerable(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score an abstention that is due."""
    return {
        "strict": float(says(results[0], UNKNOWN_STRICT)),
        "non_strict": float(says(results[0], UNKNOWN)),
    }


def process_inconsistent(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score the report of a conflict that is there."""
    return {
        "strict": float(says(results[0], CONFLICT_STRICT)),
        "non_strict": float(says(results[0], CONFLICT)),
    }


def process_counterfactual(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score the answer that the context gives."""
    strict, non_strict = gives_answer(doc, results[0])
    return {"strict": float(strict), "non_strict": float(non_strict)}


def process_answerable(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score an abstention that is not due; a reply with the right answer is none, whatever else it says."""
    _, right = gives_answer(doc, results[0])
    return {
        "abstain_strict": float(not right and says(results[0], UNKNOWN_STRICT)),
        "abstain_non_strict": float(not right and says(results[0], UNKNOWN)),
        "answer_acc": float(right),
    }

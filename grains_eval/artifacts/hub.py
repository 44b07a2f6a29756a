"""Publish an artifact folder on the hub; `load` reads it back as `org/name@revision`."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import HFValidationError, filter_repo_objects, validate_repo_id

from grains_eval.artifacts.card import write_card
from grains_eval.artifacts.layout import CARD, CONFIG, fingerprint
from grains_eval.artifacts.load import PATTERNS, inside, open_artifact, read_config
from grains_eval.artifacts.measured import read_measured, with_measured
from grains_eval.errors import GrainsError


def push(
    folder: Path, target: str, *, report: Path | None = None, private: bool = False, overwrite: bool = False
) -> str:
    """Upload an artifact as a model repository, with a card whose metadata the hub indexes.

    Args:
        folder: The artifact. It is read only.
        target: `org/name`, or `org/name@branch`; the repository and the branch are made where they are missing.
        report: A report of `grains-eval compare` whose rows of these vectors go into the card.
        private: Make a new repository private.
        overwrite: Replace an artifact, or other files of the names that an artifact's have.

    Returns:
        The address of the commit.

    Raises:
        GrainsError: no artifact, a name that is none, a report of other vectors, files are there that would be
            replaced, or the hub cannot be reached or refuses.
    """
    if not folder.is_dir():
        raise GrainsError(f"'{folder}' is not a folder; push takes an artifact folder")
    name, _, branch = target.partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise GrainsError(f"'{name}' is not a name on the hub; write org/name or org/name@branch") from error
    if name.count("/") != 1 or target.endswith("@"):
        raise GrainsError(f"'{target}' is not a name on the hub; write org/name or org/name@branch")
    card = _card(folder, name.rpartition("/")[2], report)
    with TemporaryDirectory() as place:
        work = Path(place) / "artifact"
        for file in sorted({each for pattern in PATTERNS for each in folder.glob(pattern) if each.is_file()}):
            inside(folder, str(file.relative_to(folder)))
            (work / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, work / file.relative_to(folder))
        (work / CARD).write_text(card, encoding="utf-8")
        try:
            return _upload(work, name, branch, private=private, overwrite=overwrite)
        except GrainsError:
            raise
        except Exception as error:  # the hub's own errors, and those of whichever HTTP client it has
            if not isinstance(error, OSError | ValueError) and not type(error).__module__.startswith("httpx"):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise GrainsError(f"'{target}' cannot be pushed: {reason}; nothing on the hub was replaced") from error


def _card(folder: Path, name: str, report: Path | None) -> str:
    """The artifact's card under the repository's name, with measured results where there is a report."""
    artifact = open_artifact(folder)
    config = read_config(folder).model_dump()
    card = write_card(config, name)
    if report is None:
        return card
    steering = artifact.vectors or artifact.tokens
    if steering is None:
        raise GrainsError(
            f"'{folder}' holds no vectors, by which the rows of a report could be told; leave --report out"
        )
    sees: Any = artifact.provenance.get("modality") == "vision-language"
    return with_measured(card, name, sees, read_measured(report, fingerprint(steering)))


def _upload(work: Path, name: str, branch: str, *, private: bool, overwrite: bool) -> str:
    api = HfApi()
    revision = branch or None
    try:
        there = api.list_repo_files(name, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        there = []
    lost = sorted(filter_repo_objects(there, allow_patterns=PATTERNS))
    if lost and not overwrite:
        what = "an artifact" if CONFIG in lost else f"{', '.join(lost[:3])}{' and more' if lost[3:] else ''}"
        raise GrainsError(
            f"'{name}{f'@{branch}' if branch else ''}' holds {what}; push to another branch or pass --overwrite"
        )
    api.create_repo(name, private=private, exist_ok=True)
    if branch:
        api.create_branch(name, branch=branch, exist_ok=True)
    made = api.upload_folder(
        repo_id=name,
        folder_path=work,
        revision=revision,
        commit_message="Steering artifact of grains-eval",
        delete_patterns=PATTERNS,  # what is there of another artifact would be read with this one
    )
    return str(made.commit_url)

"""What every steered lm-eval model keeps of the artifacts that are applied to it, whatever runs its forward passes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from grains_eval.errors import GrainsError
from grains_eval.examples.documents import doc_hash
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.harness.prompting import SEPARATOR, PromptingMixin
from grains_eval.types import Contrast, FoundTokens, TokenConfig

logger = logging.getLogger(__name__)

STEERING_ARGUMENTS = (
    *("vectors", "strength", "layers", "unit", "operator", "positions"),
    *("tokens", "distance", "form", "plugins"),
)


class AppliedMixin(PromptingMixin):
    """Describes what is applied, puts prompting artifacts in front, and counts the documents that built it.

    Attributes:
        applied: Artifacts in order; empty for the plain model.
    """

    applied: tuple[AppliedArtifact, ...] = ()

    def forget_documents(self) -> None:
        """Start counting evaluated documents again."""
        self._documents: dict[tuple[str, Any], str] = {}
        self._said: set[tuple[str, int]] = set()

    @property
    def instruction(self) -> str | None:
        """What prompting artifacts put in front of every prompt; None without any."""
        texts = [item.artifact.instruction for item in self.applied if item.artifact.instruction is not None]
        return SEPARATOR.join(texts) or None

    @property
    def contrast(self) -> Contrast | None:
        """What amplifies contexts; None without anything.

        Raises:
            GrainsError: several.
        """
        found = [item.artifact.contrast for item in self.applied if item.artifact.contrast is not None]
        if len(found) > 1:
            raise GrainsError("only one contrast can be applied; drop all but one")
        return found[0] if found and found[0].alpha else None

    def inserted_tokens(self) -> list[tuple[FoundTokens, TokenConfig]]:
        """Found tokens that stand in the prompt itself, and how they are applied."""
        return [
            (item.artifact.tokens, item.config)
            for item in self.applied
            if item.is_inserted and item.artifact.tokens is not None and isinstance(item.config, TokenConfig)
        ]

    def _observe(self, requests: Sequence[Instance]) -> None:
        """Remember which documents were evaluated, and say how many of them built the vectors."""
        if not any(_hashes(item) for item in self.applied):
            return
        for request in requests:
            key = (str(request.task_name), request.doc_id)
            if key not in self._documents:
                self._documents[key] = doc_hash(request.doc)
        for name, count in self._documents_used().items():
            if count and (name, count) not in self._said:  # a sweep evaluates once per setting
                self._said.add((name, count))
                logger.warning(
                    "%d evaluated documents were used to %s the vectors; grains-eval compare leaves them out",
                    count,
                    name,
                )

    def _documents_used(self) -> dict[str, int]:
        used = {"build": set[str](), "tune": set[str]()}
        for item in self.applied:
            hashes = _hashes(item)
            used["build"].update(hashes.get("build", ()), hashes.get("shots", ()))
            used["tune"].update(hashes.get("development", ()))
        return {name: sum(found in known for found in self._documents.values()) for name, known in used.items()}

    def describe_steering(self) -> list[dict[str, Any]]:
        """Every artifact with its fingerprint, layers, strength and method."""
        return [item.describe() for item in self.applied]

    def _moves(self) -> list[dict[str, Any]]:
        """What is applied, free of paths and of the documents behind it."""
        return [
            {key: value for key, value in item.items() if key not in {"vectors", "doc_hashes"}}
            for item in self.describe_steering()
        ]


def _hashes(item: AppliedArtifact) -> Mapping[str, Sequence[str]]:
    return item.artifact.provenance.get("doc_hashes", {})


def warn_of_other_base(item: AppliedArtifact, pretrained: Any) -> None:
    """Warn if an artifact was built for another model than it is applied to."""
    base = item.artifact.provenance.get("base_model")
    if base and isinstance(pretrained, str) and str(base).rstrip("/") != pretrained.rstrip("/"):
        if Path(pretrained).is_dir() and Path(str(base)).is_dir() and Path(pretrained).samefile(str(base)):
            return
        logger.warning("'%s' was built for %s but is applied to %s", item.source, base, pretrained)

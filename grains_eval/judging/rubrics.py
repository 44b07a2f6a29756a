"""Rubrics: what a judge is asked and how its reply is read, as YAML. Unknown keys are errors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from grains_eval.errors import GrainsError, unknown
from grains_eval.plain_values import encodable, not_json, read_yaml

_BUNDLED = Path(__file__).with_name("bundled")
_TEMPLATES = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"'{text}' is not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise ValueError(f"'{text}' has {compiled.groups} groups; it needs one, around the rating")
    return compiled


def _template(text: str) -> str:
    try:
        _TEMPLATES.parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} is not a Jinja template: {error.message}") from error
    return text


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VerdictRule(_Section):
    """How a rating is found in a reply: the pattern's one group, a number or a label."""

    pattern: str = Field(description="regular expression with one group, case ignored")
    values: dict[str, FiniteFloat] | None = Field(default=None, description="labels and what they count; else numbers")
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @model_validator(mode="after")
    def _check(self) -> VerdictRule:
        _pattern(self.pattern)
        if self.values is not None and len({label.lower() for label in self.values}) != len(self.values):
            raise ValueError("values has a label twice; case is ignored")
        return self


class Share(_Section):
    """A share of items: those rated below or at least a value."""

    below: FiniteFloat | None = None
    at_least: FiniteFloat | None = None
    higher_is_better: bool

    @model_validator(mode="after")
    def _one(self) -> Share:
        if (self.below is None) == (self.at_least is None):
            raise ValueError("a share needs exactly one of 'below' and 'at_least'")
        return self

    def of(self, score: float) -> float:
        """1 where a rating is in, else 0."""
        return float(score < self.below if self.below is not None else score >= (self.at_least or 0.0))


class Pairwise(_Section):
    """How two responses are compared; the prompt has `first` and `second`, the pattern finds `a`, `b` or `tie`."""

    prompt: str
    pattern: str

    @model_validator(mode="after")
    def _check(self) -> Pairwise:
        _pattern(self.pattern)
        _template(self.prompt)
        return self


class Rubric(_Section):
    """A rubric; see docs/judging.md for every key."""

    name: str
    tasks: list[str] = Field(default_factory=list[str], description="lm-eval tasks that it is used for without asking")
    system: str | None = None
    prompt: str = Field(description="Jinja template over the document's fields, `response`, `target` and `prompt`")
    verdict: VerdictRule
    metric: str = Field(default="score", description="what the rating is called, after `judge_`")
    higher_is_better: bool
    shares: dict[str, Share] = Field(default_factory=dict[str, Share])
    official_unparsed: FiniteFloat | None = Field(
        default=None, description="what a benchmark counts a reply without one clear rating as"
    )
    by: str | None = Field(default=None, description="field of the documents that the summary is split by")
    generation: dict[str, Any] = Field(default_factory=dict[str, Any], description="parameters of the request")
    pairwise: Pairwise | None = None

    @model_validator(mode="after")
    def _check(self) -> Rubric:
        _template(self.prompt)
        for name in (self.metric, *self.shares):
            if not _NAME.match(name):
                raise ValueError(f"'{name}' is no name of a metric; use lower-case letters, digits and _")
        if self.metric in self.shares or "no_verdict" in (self.metric, *self.shares):
            raise ValueError("a share has the name of another metric")
        taken = {"model", "messages", "stream", "n"}.intersection(self.generation)
        if taken:
            raise ValueError(f"generation may not set {', '.join(sorted(taken))}")
        if reason := not_json(self.generation):
            raise ValueError(f"generation cannot be sent: {reason}")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over everything that the rubric says."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def bundled() -> dict[str, Path]:
    """Rubrics that come with the package, by name."""
    return {file.stem: file for file in sorted(_BUNDLED.glob("*.yaml"))}


def load_rubric(name: str) -> Rubric:
    """Read a rubric: a YAML file, or one that is bundled, by name.

    Raises:
        GrainsError: neither, not YAML, an unknown key (with the closest known one) or a bad value.
    """
    file = Path(name)
    if not file.is_file():
        if file.suffix in (".yaml", ".yml"):
            raise GrainsError(f"rubric '{name}' is not a file")
        if name not in bundled():
            raise unknown(name, bundled(), "rubric (no such file, and none bundled)")
        file = bundled()[name]
    try:
        raw: Any = read_yaml(file.read_bytes())
    except GrainsError as error:
        raise GrainsError(f"rubric '{name}' is {error}") from error
    if not isinstance(raw, Mapping):
        raise GrainsError(f"rubric '{name}' is not a mapping; it needs name, prompt, verdict and higher_is_better")
    try:
        return Rubric.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown(key, _known(first["loc"]), f"key in rubric {name}") from error
        raise GrainsError(f"rubric '{name}': {key or 'rubric'}: {first['msg']}") from error


def _known(path: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {"verdict": VerdictRule, "pairwise": Pairwise, "shares": Share}
    section = sections.get(str(path[0]), Rubric) if len(path) > 1 else Rubric
    return [".".join([*map(str, path[:-1]), name]) for name in section.model_fields]


def render(template: str, fields: Mapping[str, Any], where: str) -> str:
    """A prompt with a document's fields filled in.

    Half a surrogate pair, which no endpoint can be sent, becomes a question mark.

    Raises:
        GrainsError: the document lacks a field of the template, or the template fails on it.
    """
    try:
        return encodable(_TEMPLATES.from_string(template).render(**fields))
    except Exception as error:  # an expression of the template may raise anything
        there = ", ".join(sorted(map(str, fields)))
        raise GrainsError(
            f"{where}: {' '.join(str(error).split()) or type(error).__name__}; its fields are {there}"
        ) from error

"""A recipe: YAML that says how a behaviour's vector is built, applied and evaluated.

Unknown keys are errors; `key.path=value` overrides from the command line go through the same validation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from grains_eval.errors import GrainsError, told, unknown
from grains_eval.plain_values import not_json, read_yaml
from grains_eval.plugins import load_plugins
from grains_eval.types import Positions, Unit

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]


def one_is_a_list(value: Any) -> Any:
    """`14` is `[14]`."""
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class Section(BaseModel):
    """A part of a recipe; keys that are not named here are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Where the preference examples come from: an lm-eval task, or a file or dataset with field names."""

    task: str | None = Field(default=None, description="any lm-eval multiple-choice task")
    path: str | None = Field(default=None, description="a .jsonl, .json, .csv or .parquet file, or a dataset's hub id")
    name: str | None = Field(default=None, description="the hub dataset's configuration")
    split: str | None = Field(default=None, description="default: the training split if there is one")
    prompt: str = Field(default="prompt", description="field, or Jinja template over the row")
    chosen: str = Field(default="chosen", description="field, or Jinja template")
    rejected: str | None = Field(
        default=None, description="field or template; for a task, default the first wrong choice"
    )
    images: str | None = Field(default=None, description="field with one image or a list of images (files only)")
    cluster: str | None = Field(default=None, description="field that names the cluster of a row")
    context: str | None = Field(
        default=None,
        description="field or template of the passage that a prompt holds; for a task, default its "
        "metadata.context_key",
    )
    delimiter: str = Field(default=" ", description="stands between prompt and response (files only)")
    chat_template: bool = Field(default=False, description="render prompts with the model's chat template")
    num_fewshot: int | None = Field(default=None, ge=0, description="few-shot examples of a task's prompts")
    metadata: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="given to every task that is loaded, as lm-eval's --metadata"
    )
    examples: Count = 50
    development: Annotated[int, Field(ge=0)] = 100
    development_split: str | None = Field(default=None, description="default: the same split, other items")
    seed: int = 0

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """The folder of the recipe's file, where relative paths of images begin; None for a recipe without one."""
        return self._folder

    def beside(self, folder: Path | None) -> Data:
        """The same data with another `folder`."""
        placed = self.model_copy()
        placed._folder = folder
        return placed

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.task is None) == (self.path is None):
            raise ValueError("data needs exactly one of 'task' and 'path'")
        if self.path is not None and self.rejected is None:
            object.__setattr__(self, "rejected", "rejected")
        return self


class AttributionConfig(Section):
    """How prompt tokens are scored and selected (method steps 1-3)."""

    method: str = Field(default="integrated_gradients", description="one of `grains-eval methods`")
    objective: Literal["preference", "likelihood"] = "preference"
    length_normalised: bool = False
    steps: Count = Field(default=20, description="Gauss-Legendre nodes")
    max_steps: Count = Field(
        default=160, description="nodes double up to here while the completeness gap is above tolerance"
    )
    tolerance: Annotated[float, Field(gt=0)] = Field(default=0.05, description="allowed relative completeness gap")
    baseline: Literal["pad", "mean", "zero"] = Field(default="pad", description="x' of text tokens; also their mask")
    visual_baseline: Literal["blank", "position_mean", "mean", "pad", "zero"] = "blank"
    noise: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="SmoothGrad: noise over the embeddings' deviation"
    )
    samples: Count = Field(default=20, description="SmoothGrad samples")
    top_k: Count = 10
    selection: str = Field(default="top_k", description="one of `grains-eval methods`")
    candidates: Count | None = Field(
        default=None, description="agreement: candidates per sign, default three times top_k"
    )
    modality: Literal["joint", "text", "image"] = "joint"
    max_document_frequency: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.4, description="a token in a larger share of the examples is not a candidate"
    )
    fidelity_examples: Annotated[int, Field(ge=0)] = Field(
        default=16,
        description="build examples whose attributions are tested by removing tokens, for the card; 0 for none",
    )
    internal_batch_size: Count | None = Field(
        default=None, description="rows per forward; chosen from free memory if unset"
    )
    share_prefix: bool = Field(
        default=True, description="compute the prompt once for both responses where that is exact"
    )


class VectorsConfig(Section):
    """How deltas become one direction per layer (method steps 4-5)."""

    method: str = Field(default="grains", description="one of `grains-eval methods`")
    direction: Literal["mean", "uncentred_pca", "pca"] = "mean"
    at: Literal["prompt", "response"] = "prompt"
    mask: Literal["token", "pixel"] = Field(
        default="token", description="visual tokens: replace features, or grey the pixels"
    )
    options: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        description="the method's own options; `steering` overrides how a baseline method is applied",
    )


class SteeringSection(Section):
    """How the vector is applied; `auto` is chosen on development items."""

    layers: Annotated[Auto | Literal["all"] | list[int], BeforeValidator(one_is_a_list)] = "auto"
    strength: Auto | FiniteFloat = "auto"
    unit: Unit = "relative"
    operator: str = "add_renormalised"
    positions: Positions = "all"
    strengths: list[FiniteFloat] = Field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0], description="grid for auto")
    candidate_layers: list[int] | None = Field(
        default=None, description="grid for auto; default at most eight, evenly spaced"
    )


class Evaluation(Section):
    """What is measured: target tasks, and tasks whose score must not fall."""

    tasks: list[str] = Field(default_factory=list[str])
    preserve: list[str] = Field(default_factory=list[str])
    metrics: dict[str, str] = Field(default_factory=dict[str, str], description="headline metric of a task")
    margin: Annotated[float, Field(gt=0)] = Field(default=0.01, description="non-inferiority margin on preserved tasks")
    likelihood_margin: Annotated[FiniteFloat, Field(ge=0)] = Field(
        default=0.1,
        description="nats a token that mean log p(y+) may fall on development examples at a chosen setting",
    )
    groups: Literal["fixed", "sampled"] = Field(
        default="fixed", description="what a group's row is about: these subtasks, or subtasks like these"
    )
    limit: int | None = None
    control_draws: Annotated[int, Field(ge=0)] = Field(
        default=5, description="draws of each random control in a comparison"
    )


class Prompting(Section):
    """The prompting baseline: the behaviour as an instruction."""

    instruction: str


class Recipe(Section):
    """A behaviour's recipe; see docs/recipes.md for every key."""

    name: str
    seed: int = 0
    model_args: dict[str, Any] = Field(default_factory=dict[str, Any])
    data: Data
    attribution: AttributionConfig = AttributionConfig()
    vectors: VectorsConfig = VectorsConfig()
    steering: SteeringSection = SteeringSection()
    evaluation: Evaluation = Evaluation()
    prompting: Prompting | None = None
    plugins: list[str] = Field(
        default_factory=list[str], description="modules or .py files with methods of your own; see docs/extending.md"
    )
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict[str, dict[str, Any]], description="named variants: overrides of this recipe's sections"
    )

    def variant(self, name: str, overrides: Mapping[str, Any]) -> Recipe:
        """This recipe with some keys changed, section by section.

        Raises:
            GrainsError: an unknown key or a bad value.
        """
        raw = _merged({**self.model_dump(), "methods": {}}, overrides)
        made = parse_recipe(raw, where=f"variant '{name}' of {self.name}")
        return made.model_copy(update={"data": made.data.beside(self.data.folder)})

    def fingerprint(self) -> str:
        """SHA-256 over the canonical JSON of the recipe, 16 hex digits."""
        raw = self.model_dump(mode="json")
        # recipes that leave newer keys at their defaults keep the fingerprint that they had before there were any
        if not self.plugins:
            del raw["plugins"]
        if self.attribution.fidelity_examples == AttributionConfig().fidelity_examples:
            del raw["attribution"]["fidelity_examples"]
        if self.data.context is None:
            del raw["data"]["context"]
        text = json.dumps(raw, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """The recipe as run, every default spelled out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: The YAML file. A relative `data.path` and the paths of images are resolved against its folder.
        overrides: `section.key=value` strings; values are YAML.

    Raises:
        GrainsError: no such file, not YAML, an unknown key (with the closest known one), a bad value, or a plug-in that
            cannot be imported.
    """
    file = Path(path)
    if not file.is_file():
        raise GrainsError(f"recipe '{path}' is not a file; give the path of a recipe.yaml")
    try:
        raw = read_yaml(file.read_bytes())
    except GrainsError as error:
        raise GrainsError(f"recipe '{path}' is {error}") from error
    if not isinstance(raw, dict):
        raise GrainsError(f"recipe '{path}' is not a mapping; it needs at least 'name' and 'data'")
    recipe = parse_recipe(raw, overrides, where=str(path))
    load_plugins(recipe.plugins, file.parent)
    data_file = recipe.data.path
    if data_file and not Path(data_file).is_absolute() and (file.parent / data_file).exists():
        data = recipe.data.model_copy(update={"path": str((file.parent / data_file).resolve())})
        recipe = recipe.model_copy(update={"data": data})
    return recipe.model_copy(update={"data": recipe.data.beside(file.parent.resolve())})


def parse_recipe(raw: dict[str, Any], overrides: Iterable[str] = (), where: str = "recipe") -> Recipe:
    """Validate a mapping as a recipe, after applying `section.key=value` overrides."""
    for override in overrides:
        raw = _override(raw, override)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            raise unknown(".".join(location), _keys(location[:-1]), f"key in {where}") from error
        # alternatives of one key are one error; their names are pydantic's, not the recipe's
        key = [part for number, part in enumerate(location) if number < 1 or _is_key(location[: number + 1])]
        alike = [one for one in error.errors() if [str(part) for part in one["loc"]][: len(key)] == key]
        said = "; or ".join(dict.fromkeys(one["msg"] for one in alike))
        others = error.error_count() - len(alike)
        more = f" (and {others} more)" if others else ""
        raise GrainsError(f"{where}: {told('.'.join(key)) or 'recipe'}: {told(said, 300)}{more}") from error
    if reason := _unkept(recipe.model_dump()):
        raise GrainsError(f"{where}: {reason}")
    return recipe


def _unkept(values: Mapping[str, Any], section: str = "") -> str:
    """The first key whose value no JSON holds (a date, NaN), and why; artifacts and fingerprints are made of JSON."""
    for name, value in values.items():
        if reason := not_json(value):
            inner = _unkept(value, f"{section}{name}.") if isinstance(value, Mapping) and section.count(".") < 3 else ""
            return inner or f"{told(f'{section}{name}')}: {told(reason, 200)} (a date or a number in quotes is text)"
    return ""


Options = TypeVar("Options", bound=Section)


def method_options(recipe: Recipe, kind: type[Options]) -> Options:
    """`vectors.options` as the options of the recipe's method (`steering` there says how it is applied, not built).

    Raises:
        GrainsError: an option that the method does not have, or a bad value.
    """
    given = {key: value for key, value in recipe.vectors.options.items() if key != "steering"}
    return parse_section(kind, given, f"vectors.options of {recipe.vectors.method}")


def parse_section(kind: type[Options], raw: Mapping[str, Any], where: str) -> Options:
    """Validate a mapping as a section.

    Raises:
        GrainsError: an unknown key or a bad value.
    """
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown(key, kind.model_fields, f"key in {where}") from error
        raise GrainsError(f"{where}: {told(key) or 'section'}: {told(first['msg'], 300)}") from error


def _merged(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(raw)
    for key, value in changes.items():
        inner: Any = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


def with_key(raw: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A mapping with one value changed or added.

    Args:
        raw: Nested mappings, which stay as they are.
        key: The path to the value, as in `section.key`; sections that are missing are made.
        value: The value.

    Raises:
        GrainsError: the path leads through a value.
    """
    section, _, rest = key.partition(".")
    if not rest:
        return {**raw, section: value}
    inner = raw.get(section, {})
    if not isinstance(inner, Mapping):
        raise GrainsError(f"'{section}' is a value, not a section")
    return {**raw, section: with_key(cast("Mapping[str, Any]", inner), rest, value)}


def _override(raw: Mapping[str, Any], override: str) -> dict[str, Any]:
    key, separator, text = override.partition("=")
    if not separator:
        raise GrainsError(f"override '{override}' has no '='; write section.key=value")
    try:
        value = read_yaml(text)
    except GrainsError as error:
        raise GrainsError(f"override '{override}': the value is {error}") from error
    try:
        return with_key(raw, key, value)
    except GrainsError as error:
        raise GrainsError(f"override '{override}': {error}") from error


def _is_key(path: list[str]) -> bool:
    """Whether a path names a key of the recipe."""
    try:
        return ".".join(path) in _keys(path[:-1])
    except (KeyError, StopIteration):
        return False


def _keys(path: list[str]) -> list[str]:
    """The known keys of a (nested) section, spelled with their path."""
    section: type[BaseModel] = Recipe
    for part in path:
        kind = section.model_fields[part].annotation
        candidates = [kind, *getattr(kind, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [".".join([*path, name]) for name in section.model_fields]

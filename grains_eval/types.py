"""The nouns of the pipeline: frozen dataclasses that every package shares.

Symbols follow the GrAInS paper (arXiv 2507.18043): `x` prompt, `y+` chosen, `y-` rejected, `l` decoder layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from grains_eval.errors import GrainsError, unknown
from grains_eval.questions import NOTHING, Document, QuestionHashes

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Site = Literal["block_output", "attention_heads"]
Unit = Literal["relative", "absolute"]
Positions = Literal["all", "prompt", "generated", "last"]
# How a found token is given to a model: as keys and values, as a soft token in the prompt, or as its words.
Form = Literal["kv", "embedding", "text"]
# What an artifact is in a comparison: a method, for which something is claimed; a control, for which nothing is; or a
# method with a possible confound projected out, for which nothing is claimed either and which rivals no method.
Kind = Literal["method", "control", "projection"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat prompt; an image stands in `content` as the model's own placeholder."""

    role: str
    content: str


@dataclass(frozen=True)
class PreferenceExample:
    """A prompt with a preferred and a dispreferred response.

    Attributes:
        id: Where the example came from, for people (`truthfulqa_mc1:17`).
        doc_hash: lm-eval's hash of the document, the key of every held-out check.
        prompt: The text the model reads, or chat messages to be rendered with its chat template.
        chosen: `y+`, with the delimiter that separates it from the prompt (`" Paris"`).
        rejected: `y-`, likewise.
        images: The images of the prompt, in order.
        cluster: The unit that repeats across items (subject, group, image), if the task names one.
        question: Hashes of its text, by which it is known in other files and tasks.
        shots: The few-shot examples of its prompt, whose answers the model reads too.
        context: The passage that its prompt holds, as it stands there; None where none is declared.
    """

    id: str
    doc_hash: str
    prompt: str | tuple[Message, ...]
    chosen: str
    rejected: str
    images: tuple[Image, ...] = ()
    cluster: str | None = None
    question: QuestionHashes = NOTHING
    shots: tuple[Document, ...] = ()
    context: str | None = None


@dataclass(frozen=True)
class Patch:
    """Where a visual token looks: a box in its image, as fractions of width and height."""

    image: int
    row: int
    column: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Attribution:
    """One signed score per prompt token (method step 2).

    Attributes:
        example_id: The example's id.
        tokens: `[T]` token strings as the tokenizer writes them.
        scores: `[T]` float32, positive where the token favours `y+`.
        is_image: `[T]` bool, visual tokens.
        is_candidate: `[T]` bool, tokens that selection may take.
        value: `F(x)` in nats.
        baseline_value: `F(x')` in nats.
        completeness_error: `|sum(scores) - (F(x) - F(x'))| / |F(x) - F(x')|`; NaN where the method promises none.
        steps: Number of quadrature nodes, after adaptation.
        patches: `[T]` the place of each visual token in its image, None for text.
    """

    example_id: str
    tokens: tuple[str, ...]
    scores: Tensor
    is_image: Tensor
    is_candidate: Tensor
    value: float
    baseline_value: float
    completeness_error: float
    steps: int
    patches: tuple[Patch | None, ...] = ()


@dataclass(frozen=True)
class TokenSelection:
    """Prompt positions that are masked: `T+` and `T-` (method step 3)."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]


@dataclass(frozen=True)
class SteeringConfig:
    """How a vector acts on a model.

    Attributes:
        layers: Layers to steer; None means every layer of the vectors.
        strength: `s` (relative) or the paper's lambda (absolute).
        unit: `relative` moves by `s` times the layer's median token norm, `absolute` by `lambda * v_l`.
        operator: A name in `steering.OPERATORS`.
        positions: Tokens that are moved.

    Raises:
        GrainsError: a value of another kind.
    """

    layers: tuple[int, ...] | None = None
    strength: float = 1.0
    unit: Unit = "relative"
    operator: str = "add_renormalised"
    positions: Positions = "all"

    def __post_init__(self) -> None:
        layers: Any = self.layers
        whole = isinstance(layers, Sequence) and all(isinstance(one, Integral) for one in cast("Sequence[Any]", layers))
        if layers is not None and not whole:
            raise GrainsError(
                f"layers={layers!r} is not a tuple of layers; write layers=(3,) for one, or None for every layer of "
                "the vectors (layers count from 0)"
            )
        if not isinstance(cast(Any, self.strength), Real):
            raise GrainsError(f"strength={self.strength!r} is not a number; write strength=1.0")
        if not isfinite(self.strength):
            raise GrainsError(f"strength={self.strength!r} is not a finite number; write strength=1.0")
        for name, known in (("unit", get_args(Unit)), ("positions", get_args(Positions))):
            if getattr(self, name) not in known:
                raise unknown(getattr(self, name), known, name)


@dataclass(frozen=True)
class SteeringVectors:
    """One direction per layer, with what is needed to apply and to trust it.

    Attributes:
        directions: `{layer: [hidden] float32}`, unscaled, as the method gives them (`v_l`).
        scales: `{layer: m_l}`, the median token norm at the site over the build prompts without their first token.
        site: Where the direction was read and is applied.
        statistics: `{layer: {name: value}}`, e.g. explained variance, cosine with the mean delta, agreement.
        recommended: The setting chosen on development items, used where the user gives none.
        provenance: Everything that says where the vectors come from (JSON values only).
    """

    directions: Mapping[int, Tensor]
    scales: Mapping[int, float]
    site: Site = "block_output"
    statistics: Mapping[int, Mapping[str, float]] = field(default_factory=dict[int, Mapping[str, float]])
    recommended: SteeringConfig = SteeringConfig()
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a direction, ascending."""
        return tuple(sorted(self.directions))


@dataclass(frozen=True)
class TokenOrigin:
    """A token of a build prompt that was found.

    Attributes:
        word: The token as text.
        token_id: Its id; -1 for a visual token or one of no vocabulary.
        position: Where it stood in its prompt, from 0.
        distance: Tokens from there to the end of the prompt.
        example: Id of its example.
        statistic: `t` of the change of preference of other examples; NaN where nothing was tested.
    """

    word: str
    token_id: int
    position: int
    distance: int
    example: str
    statistic: float = float("nan")


@dataclass(frozen=True, eq=False)
class TokenPool:
    """`M` found tokens of one side with what attention keeps of each.

    Attributes:
        keys: `{layer: [M, heads, width] float32}`, key-value heads, before rotary position embedding.
        values: `{layer: [M, heads, width] float32}`.
        embeddings: `[M, hidden] float32`.
        origins: Where each stood.
    """

    keys: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    embeddings: Tensor
    origins: tuple[TokenOrigin, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have keys, ascending."""
        return tuple(sorted(self.keys))


@dataclass(frozen=True)
class TokenConfig:
    """How found tokens act on a model.

    Attributes:
        layers: Layers whose attention sees them; None means every layer. Of form `kv` alone.
        strength: Natural log of a multiplicity, added to the attention logit: 0 is one token, `ln 3` three, minus
            infinity none. Of form `kv` alone, but for minus infinity.
        tokens: Virtual tokens that the found ones are averaged into.
        distance: Tokens from each query (forms `embedding` and `text`: from the end of the prompt) back to the token;
            None is the upper median of the found tokens' own. Without effect on form `kv` where positions are learned.
        form: `kv`, `embedding` or `text`.

    Raises:
        GrainsError: a value of another kind.
    """

    layers: tuple[int, ...] | None = None
    strength: float = 0.0
    tokens: int = 1
    distance: int | None = None
    form: Form = "kv"

    def __post_init__(self) -> None:
        if not isinstance(cast(Any, self.strength), Real) or self.strength != self.strength or self.strength == inf:
            raise GrainsError(f"strength={self.strength!r} is not a number below infinity; 0 is one token, -inf none")
        if not isinstance(cast(Any, self.tokens), Integral) or self.tokens < 1:
            raise GrainsError(f"tokens={self.tokens!r} is not a number of virtual tokens; give 1 or more")
        if self.distance is not None and (not isinstance(cast(Any, self.distance), Integral) or self.distance < 0):
            raise GrainsError(f"distance={self.distance!r} is not a number of tokens; give 0 or more")
        if self.form not in get_args(Form):
            raise unknown(self.form, get_args(Form), "form")
        if self.form != "kv" and (self.layers is not None or self.strength not in (0, -inf)):
            given = "layers" if self.layers is not None else "strength"
            raise GrainsError(f"form={self.form} is part of the prompt, where {given} has no meaning; use form=kv")


@dataclass(frozen=True, eq=False)
class FoundTokens:
    """Tokens that attribution found, for both sides.

    Attributes:
        positive: Those that favour `y+`, which a model is shown.
        negative: Those that favour `y-`; None where none was found.
        recommended: The setting used where the user gives none.
        provenance: Everything that says where the tokens come from (JSON values only).
    """

    positive: TokenPool
    negative: TokenPool | None = None
    recommended: TokenConfig = TokenConfig()
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Contrast:
    """Context-aware decoding (Shi et al. 2023, arXiv 2305.14739): what the context changes is amplified.

    Attributes:
        alpha: Tokens are drawn from the softmax of `(1 + alpha) logit(y | c, x) - alpha logit(y | x)`; 0 is the plain
            model.
        contexts: By task, the document's field, or Jinja template over it, that gives the context `c` as it stands in
            the prompt; `x` is the rest of the prompt.

    Raises:
        GrainsError: an alpha that is negative or not finite.
    """

    alpha: float
    contexts: Mapping[str, str]

    def __post_init__(self) -> None:
        if not isinstance(cast(Any, self.alpha), Real) or not 0 <= self.alpha < inf:
            raise GrainsError(f"strength={self.alpha!r} is no weight of a contrast; give 0 (the plain model) or more")


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of one metric of one task between two runs.

    Attributes:
        task: lm-eval task name.
        metric: lm-eval metric name.
        n: Paired items after held-out items were left out.
        baseline: Mean of the baseline run.
        steered: Mean of the other run.
        difference: `steered - baseline`, oriented as measured (not by higher_is_better).
        standard_error: Paired (clustered where a cluster is known) standard error of the difference.
        interval: Confidence interval of the difference.
        p: Two-sided p-value.
        adjusted_p: Holm-adjusted over the rows of methods, or over those of controls.
        test: Name of the test that gave `p`.
        helped: Items that got better; where no direction is declared, items that rose.
        harmed: Items that got worse; where no direction is declared, items that fell.
        unchanged: Items that did not move.
        excluded: Items left out because they built or tuned the vector.
        clusters: Number of clusters, None when items count as independent.
        higher_is_better: Direction of the metric; None where nobody declared it, and then there is no verdict.
        method: What was compared with the baseline.
        anti_steered: Share of items pushed the wrong way, also where the metric did not flip.
        minimum_detectable_effect: True difference that this test finds with 80 % power, at Holm's first step.
        scale: What counts as a whole: 1 for shares, 100 for BLEU and its like, 0 where nothing does.
        estimand: What the difference is a difference of: "these subtasks", "subtasks like these"; empty for one task.
        assumption: What `p` and `interval` rest on, as a clause.
        guaranteed: Whether the error rates hold at every number of items, given the assumption; else approximate.
        units_needed: Clusters (items where there are none) that a test needs at least, where there are too few for
            one: `p` and `interval` are then NaN.
        most_rows: Rows of a table among which this one could be shown to differ, where it has more: its `p` is the
            smallest that its resamples can give, and there is no verdict.
    """

    task: str
    metric: str
    n: int
    baseline: float
    steered: float
    difference: float
    standard_error: float
    interval: tuple[float, float]
    p: float
    adjusted_p: float
    test: str
    helped: int
    harmed: int
    unchanged: int
    excluded: int = 0
    clusters: int | None = None
    higher_is_better: bool | None = True
    method: str = ""
    anti_steered: float = float("nan")
    minimum_detectable_effect: float = float("nan")
    scale: float = 1.0
    estimand: str = ""
    assumption: str = ""
    guaranteed: bool = False
    units_needed: int | None = None
    most_rows: int | None = None

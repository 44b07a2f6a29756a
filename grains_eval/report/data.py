"""What a report holds: frozen, and independent of how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grains_eval.comparison.controls import AgainstControl, Band
from grains_eval.comparison.estimates import Row
from grains_eval.comparison.noninferiority import CapabilityVerdict

Role = Literal["baseline", "method", "control"]


@dataclass(frozen=True)
class RunCard:
    """What was run, for the reader who wants to run it again.

    Attributes:
        name: Name in the tables.
        role: Baseline, method, or control.
        file: The results file.
        digest: First 16 hex digits of its SHA-256.
        facts: Label and value pairs: model, versions, seeds, vectors and their fingerprints.
        setting: Layers and strength of its vectors (`3: 1`), empty where there are none.
    """

    name: str
    role: Role
    file: str
    digest: str
    facts: tuple[tuple[str, str], ...]
    setting: str = ""


@dataclass(frozen=True)
class ItemChange:
    """One item under both runs, in full.

    Attributes:
        doc_id: Number of the document in its task.
        doc_hash: Its hash.
        prompt: What the model read.
        target: What was right.
        before: What the baseline answered.
        after: What the other run answered.
        baseline: Metric of the item under the baseline.
        steered: Metric of the item under the other run.
        push: How far it was pushed the right way.
    """

    doc_id: int
    doc_hash: str
    prompt: str
    target: str
    before: str
    after: str
    baseline: float
    steered: float
    push: float


@dataclass(frozen=True)
class Changes:
    """Per-item effects of one method on one task.

    Attributes:
        method: The method.
        task: Task or group.
        metric: Metric.
        pushes: Every item's push, descending.
        unit: Unit of a push: `nats` of the choice's margin, or the metric.
        helped: The most helped items.
        harmed: The most harmed items.
        anti_steered: Share of items pushed the wrong way.
    """

    method: str
    task: str
    metric: str
    pushes: tuple[float, ...]
    unit: str
    helped: tuple[ItemChange, ...]
    harmed: tuple[ItemChange, ...]
    anti_steered: float


@dataclass(frozen=True)
class Series:
    """One line of a curve, with an optional band.

    Attributes:
        name: Name in the legend.
        x: Places.
        y: Values.
        low: Lower ends of intervals, or empty.
        high: Upper ends, or empty.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Curve:
    """A figure of lines over strength, layer, tokens or examples.

    Attributes:
        title: Heading.
        x_label: What is varied.
        y_label: What is measured.
        series: Lines.
        chosen: Where the chosen setting lies, if it does.
        chosen_line: Name of the line that it lies on; empty where it is a place of all.
        note: A sentence below.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    chosen: float | None = None
    chosen_line: str = ""
    note: str = ""


@dataclass(frozen=True)
class StudyTable:
    """A table handed in by a study.

    Attributes:
        title: Heading.
        header: Column headings; the first column names the rows.
        rows: Cells as shown.
        note: What the columns are.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class CurvePage:
    """A page of curves, with what they come to on top.

    Attributes:
        title: Heading.
        headline: What was found, in a sentence or two.
        summary: Tables above the curves.
        curves: The figures.
        notes: What a careful reader should know.
        tables: Tables below them, folded.
    """

    title: str
    headline: str
    summary: tuple[StudyTable, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...] = ()
    tables: tuple[StudyTable, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The points of an ablation.

    Attributes:
        points: Values by key of the recipe, by the name of the point's row.
        own: The recipe's own values of these keys.
    """

    points: Mapping[str, Mapping[str, Any]]
    own: Mapping[str, Any]


@dataclass(frozen=True)
class TokenMap:
    """The signed scores of one prompt's tokens.

    Attributes:
        title: Heading, such as the example's id.
        tokens: `[T]` token strings.
        scores: `[T]` signed scores.
        is_image: `[T]` visual tokens, or empty.
        selected: Positions that were masked.
        boxes: `[T]` image index and box as fractions (left, top, right, bottom) of visual tokens, or empty.
        images: PNG files, one per image, or empty.
        note: What else is known: `F(x)`, completeness error.
        doc_hash: Hash of the document behind the prompt, by which a compared item shows the map; or empty.
    """

    title: str
    tokens: Sequence[str]
    scores: Sequence[float]
    is_image: Sequence[bool] = ()
    selected: frozenset[int] = frozenset()
    boxes: Sequence[tuple[int, tuple[float, float, float, float]] | None] = ()
    images: tuple[bytes, ...] = ()
    note: str = ""
    doc_hash: str = ""


@dataclass(frozen=True)
class Supplement:
    """What a report shows beside the comparison of its runs; most of it is what a study hands in.

    Attributes:
        title: Heading of the report; default: the runs' names.
        notes: Further notes for the reader.
        tables: Tables to show.
        curves: Figures to show.
        token_maps: Heat maps to show.
        failures: Reason by method, for methods without a run: each becomes a row.
        absent: Reason by method, for methods that do not apply here: each becomes a row too.
        bands: Control label to the runs that are its draws.
        items: Most helped and most harmed items to show without JavaScript and in `report.json`, each.
        grid: The points of an ablation, which are drawn over its numeric keys.
        extra: Anything else for `report.json`.
    """

    title: str | None = None
    notes: Sequence[str] = ()
    tables: Sequence[StudyTable] = ()
    curves: Sequence[Curve] = ()
    token_maps: Sequence[TokenMap] = ()
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    absent: Mapping[str, str] = field(default_factory=dict[str, str])
    bands: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    items: int = 5
    grid: Grid | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class ReportData:
    """Everything that one report shows.

    Attributes:
        title: Heading.
        headline: The verdict, two or three sentences.
        created: ISO date and time.
        alpha: One minus the confidence level.
        margin: Non-inferiority margin, as a share.
        runs: What was run, baseline first.
        rows: The table.
        targets: Task and metric pairs that were to improve.
        verdicts: Capability verdicts on the preservation tasks.
        against_controls: Methods against their strongest control.
        further_metrics: Metrics by task that were measured too and have no row.
        failures: Reason by method, for methods that have no run.
        absent: Reason by method, for methods that do not apply here.
        changes: Per-item effects.
        bands: Controls with several draws.
        tables: Tables handed in by a study.
        curves: Figures handed in by a study.
        token_maps: Heat maps.
        notes: What a careful reader should know.
        versions: Package versions of this report.
        extra: Anything else for the JSON file.
    """

    title: str
    headline: str
    created: str
    alpha: float
    margin: float
    runs: tuple[RunCard, ...]
    rows: tuple[Row, ...]
    targets: tuple[tuple[str, str], ...] = ()
    verdicts: tuple[CapabilityVerdict, ...] = ()
    against_controls: tuple[AgainstControl, ...] = ()
    further_metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    absent: Mapping[str, str] = field(default_factory=dict[str, str])
    changes: tuple[Changes, ...] = ()
    bands: tuple[Band, ...] = ()
    tables: tuple[StudyTable, ...] = ()
    curves: tuple[Curve, ...] = ()
    token_maps: tuple[TokenMap, ...] = ()
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def without_result(self) -> tuple[tuple[str, str, str], ...]:
        """Name, reason and verdict of every method without a result."""
        kinds = ((self.failures, "failed"), (self.absent, "does not apply"))
        return tuple((name, reason, verdict) for group, verdict in kinds for name, reason in group.items())

    @property
    def controls(self) -> frozenset[str]:
        """Names of the control runs."""
        return frozenset(run.name for run in self.runs if run.role == "control")

    @property
    def settings(self) -> Mapping[str, str]:
        """Layers and strength by name of a run or of a control with several draws."""
        own = {run.name: run.setting for run in self.runs}
        drawn = {band.heading: dict.fromkeys(own.get(name, "") for name in band.members) for band in self.bands}
        return own | {name: ", ".join(found) for name, found in drawn.items()}

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the runs that are neither baseline nor control."""
        return tuple(run.name for run in self.runs if run.role == "method")

"""What a build will take, told before any weights are loaded: memory, passes, floating-point operations, time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.harness.applied_artifacts import STEERING_ARGUMENTS
from grains_eval.models.loading import check_arguments
from grains_eval.models.memory import SHARE, bytes_per_row
from grains_eval.models.sketch import Cost, Peak, Sketch, cache_per_token, cost, peak, sketch
from grains_eval.models.vocabulary import PART_ACCELERATOR, PART_CPU
from grains_eval.recipes import Recipe
from grains_eval.study.lengths import Lengths, assumed, read_data
from grains_eval.study.passes import Phase, image_encodings, phases
from grains_eval.study.session import check_plain

_GIB = 2**30
_USABLE = 0.94  # of a GPU's memory: the rest is taken by its context, workspaces and gaps


@dataclass(frozen=True)
class Devices:
    """Memory to fit into.

    Attributes:
        count: Devices.
        gigabytes: Of each, in GiB.
    """

    count: int
    gigabytes: float

    def __str__(self) -> str:
        each = f"{self.gigabytes:g} GB"
        return each if self.count == 1 else f"{self.count} x {each}"


def parse_devices(text: str) -> Devices:
    """`24` or `4x24`.

    Raises:
        GrainsError: anything else.
    """
    match = re.fullmatch(r"(?:(\d{1,6})x)?(\d{1,9}(?:\.\d+)?)", text.strip())
    if match is None or not float(match[2]) or not int(match[1] or 1):
        raise GrainsError(f"device memory '{text}' is not understood; write 24 for one device of 24 GB, or 4x24")
    return Devices(int(match[1] or 1), float(match[2]))


@dataclass(frozen=True)
class Fit:
    """Whether a build fits.

    Attributes:
        devices: Into what.
        rows: Quadrature nodes of the longest example in one pass; 0 where not even one fits.
        split: Whether the weights must be split over the devices.
        advice: How to run it, or what to change.
    """

    devices: Devices
    rows: int
    split: bool
    advice: str


@dataclass(frozen=True)
class Estimate:
    """What a build takes.

    Attributes:
        name: The model's class.
        parameters: Number of them.
        dtype: In which they are loaded.
        weights: Bytes of parameters and buffers.
        largest_part: Bytes of the largest part that is not split over devices.
        longest: Tokens of the example that takes the most memory.
        peak: Bytes of one attributed row of it.
        rows: Of a pass: the recipe's `attribution.internal_batch_size`, else as many as there are nodes.
        is_fixed: Whether the recipe says so.
        guess: Bytes that the build takes a row to need when it chooses how many fit.
        phases: The passes.
        cost: Operations of a pass.
        cache: Bytes of keys and values per token of an evaluation.
        vision: Operations of the vision tower, about: at least and at most.
        notes: What is not counted.
    """

    name: str
    parameters: int
    dtype: str
    weights: int
    largest_part: int
    longest: Lengths
    peak: Peak
    rows: int
    is_fixed: bool
    guess: int
    phases: Sequence[Phase]
    cost: Cost
    cache: int
    vision: tuple[float, float]
    notes: Sequence[str]

    def needed(self, rows: int) -> int:
        """Bytes at the peak of a pass of so many rows."""
        return self.weights + self.peak.fixed + rows * self.peak.row

    def operations(self) -> tuple[float, float]:
        """Floating-point operations, at least and at most."""
        least = sum(run.operations(self.cost) for phase in self.phases for run in phase.least)
        most = sum(run.operations(self.cost) for phase in self.phases for run in phase.most)
        return least + self.vision[0], most + self.vision[1]

    def fit(self, devices: Devices) -> Fit:
        """Whether the build fits, and how it is run then."""
        usable = devices.gigabytes * _GIB * _USABLE
        if self.needed(1) <= usable:
            advice = "on one device"
            if devices.count > 1:
                advice = f"torchrun --nproc_per_node {devices.count}: the examples are shared, the weights copied"
            return Fit(devices, self._rows(usable), False, advice)
        if devices.count > 1 and self._splits(devices.gigabytes, devices.count):
            free = (usable - self.largest_part) * devices.count - self.weights
            return Fit(devices, self._rows(self.weights + free), True, "parallelize=True: the weights are split")
        count = next((n for n in range(2, 65) if self._splits(devices.gigabytes, n)), None)
        many = f"{count} such devices with parallelize=True" if count else "larger devices"
        smaller = "dtype=bfloat16, " if self.dtype == "float32" else ""
        what = "the weights alone are larger" if self.weights > usable else "not one row fits beside the weights"
        return Fit(devices, 0, False, f"{what}; use {smaller}{many}")

    def _splits(self, gigabytes: float, count: int) -> bool:
        # whole layers go to a device, so that one may hold a part more than its share
        share = (self.weights + self.peak.row) / count + self.largest_part + self.peak.fixed
        return share <= gigabytes * _GIB * _USABLE

    def _rows(self, usable: float) -> int:
        """As `models.memory.rows_that_fit` chooses, halved while a pass does not fit."""
        rows = self.rows
        if not self.is_fixed:
            rows = max(1, min(rows, int(SHARE * (usable - self.weights) / self.guess)))
        while rows > 1 and self.needed(rows) > usable:
            rows //= 2
        return rows


def estimate(
    recipe: Recipe,
    arguments: Mapping[str, Any],
    include_path: Sequence[str] = (),
    lengths: tuple[int, int] | None = None,
) -> Estimate:
    """Tell what a build will take.

    Args:
        recipe: What would be built.
        arguments: lm-eval's model arguments.
        include_path: Folders with the user's own tasks.
        lengths: Tokens of every prompt and of every response; None reads the recipe's data, with the model's tokenizer.

    Raises:
        GrainsError: a model or a method that cannot be told in advance, or data that cannot be read.
    """
    check_plain(arguments)
    drawn = sketch(arguments)
    check_arguments(arguments, drawn.model.config, (*STEERING_ARGUMENTS, "share_context"))
    data = read_data(recipe, arguments, drawn, include_path) if lengths is None else assumed(recipe, *lengths)
    found = phases(recipe, data, drawn)
    longest = max(data.build, key=lambda one: one.prompt + max(one.responses))
    config = recipe.attribution
    nodes = {"smoothgrad": config.samples, "gradient": 1, "random": 1}.get(config.method, config.steps)
    part = PART_CPU if str(arguments.get("device")) == "cpu" else PART_ACCELERATOR
    notes = list(data.notes)
    if lengths is not None and drawn.vision_parameters:
        notes.append("the passes of images through the vision tower are not counted: the data was not read")
    return Estimate(
        name=type(drawn.model).__name__,
        parameters=drawn.parameters,
        dtype=str(drawn.dtype).removeprefix("torch."),
        weights=drawn.weights,
        largest_part=drawn.largest_part,
        longest=longest,
        peak=peak(drawn, longest.prompt, longest.responses, part),
        rows=min(config.internal_batch_size or nodes, nodes),
        is_fixed=config.internal_batch_size is not None,
        guess=bytes_per_row(drawn.model, longest.stand_in(drawn.dtype)),
        phases=found,
        cost=cost(drawn, longest.prompt),
        cache=cache_per_token(drawn),
        vision=_vision(drawn, data.build, recipe),
        notes=notes,
    )


def _vision(drawn: Sketch, examples: Sequence[Lengths], recipe: Recipe) -> tuple[float, float]:
    """Operations of the vision tower, about, at least and at most: two for every parameter and patch of an image."""
    config = getattr(drawn.model.config, "vision_config", None)
    merged = int(getattr(config, "spatial_merge_size", 1)) ** 2  # patches of a token in Qwen-VL
    side, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    whole = (side // patch) ** 2 if isinstance(side, int) and isinstance(patch, int) else 0
    patches = [max(one.visual * merged, one.images * whole) for one in examples]
    times = image_encodings(recipe, examples)
    least, most = (sum(n * each[end] for n, each in zip(patches, times, strict=True)) for end in (0, 1))
    return 2.0 * drawn.vision_parameters * least, 2.0 * drawn.vision_parameters * most

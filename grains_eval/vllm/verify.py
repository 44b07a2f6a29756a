"""Never silently unsteered: what every rank reports, a canary pass, and counts of moved tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grains_eval.errors import GrainsError
from grains_eval.vllm.library import sampling_parameters
from grains_eval.vllm.settings import Setting

if TYPE_CHECKING:
    from grains_eval.vllm.engine import SteeredEngine

_CANARY = 24  # tokens
CANARY_PROMPT = 16  # of them, those that count as prompt
CANARY_SHIFT = 0.5
# nats by which a log-probability of the canary may be off where nothing is wrong, by the bytes of a number
_ROUNDING: Mapping[int, float] = {4: 2e-3, 2: 0.25}


def check_reports(reports: Sequence[Mapping[str, Any]], settings: Sequence[Setting], loaded: bool = False) -> None:
    """Refuse an engine in which a rank steers nothing, or settings that its layers cannot hold.

    Args:
        reports: Of every rank.
        settings: What is, or is to be, in the rows.
        loaded: Whether the rows hold them already.

    Raises:
        GrainsError: naming the model class and what is in the way.
    """
    for report in reports:
        if report["obstacle"]:
            raise GrainsError(
                f"{report['model']} on rank {report['rank']} cannot be steered in vLLM: {report['obstacle']}"
            )
    name = reports[0]["model"]
    layers = {index for report in reports for index in report["layers"]}
    for setting in settings:
        for stage in setting.stages:
            for layer, delta in stage.deltas.items():
                if layer not in layers:
                    raise GrainsError(f"layer {layer} is out of range; {name} has layers 0 to {max(layers)}")
                widths = {width for report in reports for width in report["widths"]}
                if widths != {delta.shape[-1]}:
                    raise GrainsError(
                        f"vectors have width {delta.shape[-1]} at layer {layer} but {name} needs {min(widths)}; "
                        "they were built for another model"
                    )
    wanted = [setting.digest() for setting in settings]
    if loaded and any(report["rows"] != wanted for report in reports):
        raise GrainsError(f"{name}: the ranks of this engine hold different vectors; start it again")


@dataclass(frozen=True)
class Canary:
    """Log-probabilities of a short text in nats, `[settings, tokens]`, the plain model first.

    Attributes:
        usual: As requests are run.
        plain: By plain arithmetic, outside compiled code.
        shifted: The plain model's, with part of every layer's output moved between the two tensors that it returns.
    """

    usual: Sequence[Sequence[float]]
    plain: Sequence[Sequence[float]]
    shifted: Sequence[float]


def check_canary(engine: SteeredEngine) -> None:
    """Run a short text under every setting, as requests are run and by plain arithmetic, and compare.

    Raises:
        GrainsError: see `judge`.
    """
    settings = (Setting(), *engine.settings)
    tokens = canary_tokens(engine.llm.llm_engine.model_config)

    def logprobs(tried: Sequence[Setting]) -> list[list[float]]:
        count = len(tried)
        parameters = [canary_parameters()] * count
        found = engine.generate(
            [{"prompt_token_ids": tokens}] * count, parameters, tried, [CANARY_PROMPT] * count, use_tqdm=False
        )
        return [canary_logprobs(tokens, each) for each in found]

    usual = logprobs(settings)
    engine.reference(True)
    try:
        plain = logprobs(settings)
        reports = engine.ask_reports()
        engine.reference(True, CANARY_SHIFT)
        shifted = logprobs(settings[:1])[0]
    finally:
        engine.reference(False)
    judge(Canary(usual, plain, shifted), engine.settings, reports, engine.llm.llm_engine.model_config.dtype.itemsize)


def judge(
    canary: Canary, settings: Sequence[Setting], reports: Sequence[Mapping[str, Any]], bytes_per_number: int
) -> None:
    """Say whether an engine steers as it should.

    Args:
        canary: What was measured.
        settings: What steered it, in order.
        reports: Of every rank, after layers ran outside compiled code.
        bytes_per_number: Of the model's precision.

    Raises:
        GrainsError: a layer's output is not understood, its two tensors do not add up to the residual stream, or
            steering does not change the text as plain arithmetic on the stream does.
    """
    name = reports[0]["model"]
    tolerance = _ROUNDING[4 if bytes_per_number >= 4 else 2]
    layouts = {int(index): layout for report in reports for index, layout in report["layouts"].items()}
    for layer in sorted({layer for setting in settings for layer in setting.layers}):
        if layouts.get(layer) not in ("stream", "pair"):
            raise GrainsError(
                f"{name} cannot be steered in vLLM: layer {layer} returns {layouts.get(layer, 'nothing that was seen')}"
            )
    if _furthest(canary.shifted, canary.plain[0]) > tolerance:
        raise GrainsError(
            f"{name} cannot be steered in vLLM: the two tensors that its layers return do not add up to the residual "
            "stream; use grains_hf"
        )
    for setting, usual, plain in zip(settings, canary.usual[1:], canary.plain[1:], strict=True):
        due = [after - before for after, before in zip(plain, canary.plain[0], strict=True)]
        found = [after - before for after, before in zip(usual, canary.usual[0], strict=True)]
        size = max(map(abs, due))
        if _furthest(found, due) > tolerance + 0.05 * size:
            raise GrainsError(
                f"{name}: a canary text changes by {max(map(abs, found)):.3g} nats where {size:.3g} are due at layers "
                f"{', '.join(map(str, setting.layers))}: this engine does not steer as it should; use grains_hf"
            )
        if size > tolerance and not any(found):
            raise GrainsError(f"{name}: a canary text does not change under steering; use grains_hf")


def check_counts(counts: Sequence[Mapping[str, Any]], settings: Sequence[Setting]) -> dict[str, dict[int, int]]:
    """Tokens moved per setting and steered layer, the same on every rank that holds it.

    Args:
        counts: Of every rank, per layer what it moved and what each row was to move.
        settings: What the rows hold.

    Raises:
        GrainsError: a layer that moved other tokens than were sent to it, or that no rank has.
    """
    found: dict[str, dict[int, int]] = {setting.digest(): {} for setting in settings}
    for rank, report in enumerate(counts):
        for layer, (moved, due) in report.items():
            if moved != sum(due):
                raise GrainsError(
                    f"layer {layer} on rank {rank} moved {moved} tokens where {sum(due)} were to be moved"
                )
            for setting, count in zip(settings, due[1:], strict=False):
                if int(layer) in setting.layers and found[setting.digest()].setdefault(int(layer), count) != count:
                    raise GrainsError(f"the ranks moved different numbers of tokens at layer {layer}")
    for setting in settings:
        missing = [layer for layer in setting.layers if layer not in found[setting.digest()]]
        if missing:
            raise GrainsError(f"no rank steers layer {missing[0]}")
    return found


def canary_tokens(model_config: Any) -> list[int]:
    """Token ids of the canary, spread over the vocabulary (7919 is prime); none stands for an image."""
    vocabulary = int(model_config.get_vocab_size())
    named = vars(model_config.hf_config).items()
    special = {each for name, each in named if name.endswith(("_token_id", "_token_index")) and isinstance(each, int)}
    spread = ((number + 1) * 7919 % vocabulary for number in range(_CANARY + len(special)))
    return [token for token in spread if token not in special][:_CANARY]


def canary_parameters() -> Any:
    """Sampling parameters that ask for the log-probabilities of the canary's tokens."""
    return sampling_parameters(temperature=0, prompt_logprobs=0, max_tokens=1, detokenize=False)


def canary_logprobs(tokens: Sequence[int], output: Any) -> list[float]:
    """Log-probabilities of all tokens but the first."""
    return [row[token].logprob for token, row in zip(tokens[1:], output.prompt_logprobs[1:], strict=True)]


def _furthest(left: Sequence[float], right: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(left, right, strict=True))

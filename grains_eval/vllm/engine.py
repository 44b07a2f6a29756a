"""One vLLM engine under many settings: loads them into its tables, checks that they act, and sends requests to them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.vllm.attach import CONFIG_KEY, V2_VARIABLE, engine_config
from grains_eval.vllm.runner import ARGUMENT
from grains_eval.vllm.settings import Setting, pack, salt
from grains_eval.vllm.verify import check_canary, check_counts, check_reports

WORKER = "grains_eval.vllm.worker.SteeringWorker"


def engine_arguments(given: Mapping[str, Any], rows: int, stages: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM` with what makes its engine steerable.

    Args:
        given: The user's.
        rows: Settings that share the engine at a time.
        stages: Steerings of one setting that act one after another.

    Raises:
        GrainsError: an argument that is taken by the steering.
    """
    prefer_first_runner()
    if given.get("worker_extension_cls"):
        raise GrainsError("worker_extension_cls is what the steering is loaded through; leave it out")
    additional: dict[str, Any] = dict(given.get("additional_config") or {})
    if CONFIG_KEY in additional:
        raise GrainsError(f"additional_config['{CONFIG_KEY}'] is the steering's own; leave it out")
    return {
        **given,
        "additional_config": {**additional, **engine_config(rows, stages)},
        "worker_extension_cls": WORKER,
    }


def prefer_first_runner() -> None:
    """Let engines that are still to be started use vLLM's V1 model runner, unless the environment says otherwise.

    V2, the default where there is Triton, is followed too (`runner.follow_v2`), but the tests on a CPU cannot run it.
    """
    os.environ.setdefault(V2_VARIABLE, "0")


class SteeredEngine:
    """An engine made with `engine_arguments`.

    Args:
        llm: A `vllm.LLM`.
        rows: As it was made with.
        stages: As it was made with.

    Attributes:
        settings: What its rows hold, row 1 first.
        reports: What every rank says of itself.
    """

    def __init__(self, llm: Any, rows: int, stages: int) -> None:
        self.llm, self.rows, self.stages = llm, rows, stages
        self.settings: tuple[Setting, ...] = ()
        self.reports = self.ask_reports()
        check_reports(self.reports, ())

    def load(self, settings: Sequence[Setting]) -> None:
        """Put settings into the rows, instead of what is there, and see them act.

        Raises:
            GrainsError: more than there is room for, layers or a width that the model lacks, or a canary pass that
                does not change as it should.
        """
        wanted = tuple({each.digest(): each for each in settings if each.stages}.values())
        self.check_room(wanted)
        check_reports(self.reports, wanted)
        self._fill(wanted)
        try:
            self.reports = self.ask_reports()
            check_reports(self.reports, wanted, loaded=True)
            check_canary(self)
        except GrainsError:
            self._fill(())  # what does not act as it should is not left in the rows
            raise
        self.llm.reset_prefix_cache()
        self._fill(wanted)  # counts begin at zero

    def _fill(self, settings: tuple[Setting, ...]) -> None:
        self._ask("grains_load", pack(settings))
        self.settings = settings

    def check_room(self, settings: Sequence[Setting]) -> None:
        """Refuse more than the tables were made for."""
        deepest = max((len(each.stages) for each in settings), default=0)
        if len(settings) > self.rows:
            raise GrainsError(
                f"{len(settings)} settings do not fit the {self.rows} rows of this engine; "
                f"give max_settings={len(settings)}"
            )
        if deepest > self.stages:
            raise GrainsError(
                f"a setting applies {deepest} vectors one after another but this engine was made for {self.stages}; "
                f"give max_vectors={deepest}"
            )

    def generate(
        self,
        prompts: Sequence[Mapping[str, Any]],
        parameters: Sequence[Any],
        settings: Sequence[Setting],
        prompt_lengths: Sequence[int],
        **options: Any,
    ) -> list[Any]:
        """Run requests, each under a setting of its own, in one batch.

        Args:
            prompts: Of each request, as `LLM.generate` takes them.
            parameters: `SamplingParams` of each.
            settings: One for each; `Setting()` is the plain model.
            prompt_lengths: Of how many tokens the prompt of each consists, for position rules; an image counts as its
                placeholder, which the engine replaces by more tokens.
            **options: For `LLM.generate`.

        Raises:
            GrainsError: a setting that is not loaded.
        """
        inputs = [
            self.placed(prompt, parameter, setting, length)
            for prompt, parameter, setting, length in zip(prompts, parameters, settings, prompt_lengths, strict=True)
        ]
        return self.llm.generate(
            [prompt for prompt, _ in inputs], sampling_params=[parameter for _, parameter in inputs], **options
        )

    def placed(self, prompt: Mapping[str, Any], parameters: Any, setting: Setting, length: int) -> tuple[Any, Any]:
        """A prompt and its sampling parameters, sent to a setting's row and to its part of the prefix cache."""
        digest = setting.digest()
        if not digest:
            return dict(prompt), parameters
        rows = {each.digest(): row for row, each in enumerate(self.settings, start=1)}
        if digest not in rows:
            raise GrainsError("this setting is not loaded into the engine")
        sent = parameters.clone()
        # how many tokens an image becomes only the engine knows, so that what follows the prompt is counted there
        end = (
            {"answer": len(prompt["prompt_token_ids"]) - length} if "multi_modal_data" in prompt else {"prompt": length}
        )
        sent.extra_args = {
            **(sent.extra_args or {}),
            ARGUMENT: {"row": rows[digest], "digest": digest, "strength": 1.0, **end},
        }
        # from a different image on nothing is shared, so that counting placeholders tells the ends of prompts apart
        return {**prompt, "cache_salt": salt(digest, 1.0, length if setting.by_position else None)}, sent

    def steered_tokens(self) -> dict[str, dict[int, int]]:
        """Per loaded setting's digest and steered layer, tokens moved since they were loaded, once for every vector.

        Raises:
            GrainsError: a layer moved others than it was sent, or ranks disagree.
        """
        return check_counts(self._ask("grains_counts"), self.settings)

    def ask_reports(self) -> list[dict[str, Any]]:
        """What every rank says of itself now."""
        return self._ask("grains_report")

    def reference(self, on: bool, shift: float = 0.0) -> None:
        """Compute outside compiled code, by plain arithmetic, or as usual again."""
        self._ask("grains_reference", on, shift)

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        return self.llm.collective_rpc(method, args=arguments)

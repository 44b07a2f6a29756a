"""`grains_vllm`: everything that lm-eval's `vllm` accepts, plus steering vectors; the same artifacts as `grains_hf`.

Without vectors the engine is made as `vllm` makes it. With them it is compiled, sharded and batched as always, and
several settings share its batches.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.utils import simple_parse_args_string

from grains_eval.errors import GrainsError, one_line_errors
from grains_eval.harness.applied_artifacts import AppliedMixin, warn_of_other_base
from grains_eval.harness.arguments import AppliedArtifact, parse_steering
from grains_eval.harness.command_line import check_output
from grains_eval.harness.image_requests import shows_images
from grains_eval.harness.insertion import Insertion, insertion, kept_tokens
from grains_eval.harness.prefix_sharing.loglikelihood import Memo
from grains_eval.models.loading import is_vision_language, read_config
from grains_eval.steering import resolve
from grains_eval.types import SteeringConfig
from grains_eval.vllm.batches import Batch, groups, keys_of, parts
from grains_eval.vllm.checks import (
    check_arguments,
    check_one_engine,
    check_one_process,
    read_count,
    refused_in_one_line,
)
from grains_eval.vllm.engine import SteeredEngine, engine_arguments
from grains_eval.vllm.library import NAME, engine_argument_names, harness_class, sampling_parameters
from grains_eval.vllm.prompts import check_kind, check_soft_tokens, needs_embeddings, text_batch
from grains_eval.vllm.settings import Setting, setting_of
from grains_eval.vllm.verify import check_reports

if TYPE_CHECKING:
    _VLLM = Any
else:
    _VLLM = harness_class()


class GrainsVLLM(AppliedMixin, _VLLM):
    """A vLLM engine that steers.

    Args:
        pretrained: As for `vllm`.
        vectors: Artifact folder or hub id; several are joined by `+`. None is the plain engine.
        strength: Strength of each; default: the artifact's recommendation.
        layers: Layers to steer: `14`, `8-12`, `8/14`, `all`; default: the artifact's recommendation.
        unit: `relative` or `absolute`.
        operator: A name in `steering.OPERATORS`.
        positions: `all`, `prompt`, `generated` or `last`.
        tokens: Found tokens: how many virtual ones; so are the two that follow.
        distance: Tokens back to them.
        form: `embedding` or `text`; keys and values (`kv`) cannot be shown here.
        max_settings: Settings that share the engine at a time; 0 is an engine that cannot be steered. Default: 1 with
            vectors, else 0.
        max_vectors: Vectors of one setting that act on the same layer, or at different positions.
        **kwargs: As for `vllm`.

    Raises:
        GrainsError: an artifact that cannot be read, does not fit or cannot act here, or a model class whose layers
            are not reached.
    """

    registered_name = NAME
    MULTIMODAL = True  # lm-eval would only name other model types; what is refused says why
    _own: ClassVar[frozenset[str]] = frozenset()  # further arguments of a subclass

    def __init__(
        self,
        pretrained: str,
        vectors: str | None = None,
        strength: Any = None,
        layers: Any = None,
        unit: str | None = None,
        operator: str | None = None,
        positions: str | None = None,
        tokens: Any = None,
        distance: Any = None,
        form: str | None = None,
        max_settings: int | None = None,
        max_vectors: int | None = None,
        **kwargs: Any,
    ) -> None:
        one_line_errors(NAME)
        known = {*inspect.signature(_VLLM.__init__).parameters} | engine_argument_names()
        check_arguments(kwargs, known, self._own)
        check_one_process()
        self.applied = parse_steering(vectors, strength, layers, unit, operator, positions, tokens, distance, form)
        self.forget_documents()
        self.memo = None
        self._moved: dict[str, Counter[int]] = {}
        self._sent: Counter[str] = Counter()
        self._pretrained = pretrained
        setting = _setting(self.applied)
        steers = bool(setting.stages) or any(item.is_inserted for item in self.applied)
        rows = int(steers) if max_settings is None else read_count("max_settings", max_settings, 0)
        stages = max(1, len(setting.stages)) if max_vectors is None else read_count("max_vectors", max_vectors, 1)
        if rows:
            check_one_engine(kwargs)
        read_config({"pretrained": pretrained, **kwargs})
        if rows:
            kwargs = engine_arguments(kwargs, rows, stages)
        if any(needs_embeddings(item) for item in self.applied):
            kwargs = {"enable_prompt_embeds": True, **kwargs}
        with refused_in_one_line():
            super().__init__(pretrained=pretrained, **kwargs)
        self.engine = SteeredEngine(self.model, rows, stages) if rows else None
        for item in self.applied:
            self.check_artifact(item)
            warn_of_other_base(item, pretrained)
        if setting.stages:
            self._load([setting])

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """Build from `key=value,…`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Any:
        """Build from a mapping."""
        one_line_errors(NAME)
        check_output()
        extra = {key: value for key, value in (additional_config or {}).items() if value is not None}
        return cls.of({**extra, **arg_dict})

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> GrainsVLLM:
        """Build the variant for text or for images, by the model's config."""
        if not is_vision_language(read_config(arguments)):
            return cls(**arguments)
        from grains_eval.vllm.vision import GrainsVLLMVision

        return GrainsVLLMVision(**arguments)

    @property
    def memo(self) -> Memo | None:
        """The sweep that is running; a new one remembers nothing."""
        return self._memo

    @memo.setter
    def memo(self, memo: Memo | None) -> None:
        self._memo = memo
        self._memory: dict[Hashable, dict[str, Any]] = {}

    def check_artifact(self, item: AppliedArtifact) -> None:
        """Refuse an artifact that does not fit this engine.

        Raises:
            GrainsError: found tokens as keys and values, another width, a layer out of range, a site that cannot be
                steered here, or a plain engine.
        """
        check_kind(item)
        if item.is_inserted:
            self._steerable()
            check_soft_tokens(item, self.model.llm_engine.model_config)
        if item.artifact.vectors is not None and item.resolved is not None:
            whole = setting_of((resolve(item.artifact.vectors, SteeringConfig(strength=1.0)),))
            check_reports(self._steerable().reports, [whole])

    def steer(self, applied: Sequence[AppliedArtifact]) -> None:
        """Replace the vectors that steer this engine, keeping its weights; `()` is the plain model.

        Raises:
            GrainsError: vectors that do not fit or cannot act here.
        """
        for item in applied:
            self.check_artifact(item)
        setting = _setting(applied)
        if setting.stages:
            self._load([setting])
        self.applied = tuple(applied)
        self.forget_documents()

    @property
    def insertion(self) -> Insertion | None:
        """What found tokens put into every prompt; None for none."""
        items = self.inserted_tokens()
        return insertion(int(self.model.llm_engine.model_config.get_vocab_size()), items) if items else None

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations under steering; see `vllm`."""
        self._observe(requests)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts under steering; see `vllm`.

        Raises:
            GrainsError: a position rule, since whole texts have no prompt.
        """
        self._observe(requests)
        if any(setting.by_position for setting in self._settings()):
            raise GrainsError("positions cannot be told apart in whole texts, which have no prompt; use positions=all")
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate under steering; see `vllm`."""
        self._observe(requests)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        if self.engine is None:
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm)
        parameters = sampling_parameters(temperature=0, prompt_logprobs=1, max_tokens=1, detokenize=False)
        most = self.max_length - 1  # vLLM generates one token at least
        rows: list[list[int]] = []
        contexts: list[int] = []
        inserted = self.insertion
        for _, context, answer in requests:
            context = context if inserted is None else inserted.into(context, most - len(answer))
            rows.append((context + answer)[-most:])
            contexts.append(len(context) - max(0, len(context) + len(answer) - most))
        keys = keys_of(rows, [f"loglikelihood {length}" for length in contexts])

        def parse(index: int, output: Any) -> tuple[float, bool]:
            return self._parse_logprobs(tokens=rows[index], outputs=output, ctxlen=contexts[index])

        found = self._answer(text_batch(keys, rows, [parameters] * len(rows), contexts, inserted), parse)
        for (strings, _, _), answer in zip(requests, found, strict=True):
            if strings is not None and self.memo is None:
                self.cache_hook.add_partial("loglikelihood", strings, answer)
        return found

    def _model_generate(
        self, requests: list[list[int]], generate: bool = False, sampling_params: Any = None
    ) -> list[Any]:
        if self.engine is None or not generate:
            return super()._model_generate(requests, generate, sampling_params)
        given = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(requests)
        inserted = self.insertion
        if inserted is not None:
            # `vllm` cut prompts to what the engine takes without the inserted tokens
            kept = [kept_tokens(inserted, self.max_length, each.max_tokens or 1) for each in given]
            requests = [inserted.into(row[-room:]) for row, room in zip(requests, kept, strict=True)]
        keys = keys_of(requests, [repr(parameters) for parameters in given])
        return self._answer(
            text_batch(keys, requests, given, [len(row) for row in requests], inserted), lambda _, output: output
        )

    def _answer(self, batch: Batch, parse: Callable[[int, Any], Any]) -> list[Any]:
        """Answers under the active setting; a sweep's new requests run under all its settings, in mixed batches.

        Args:
            batch: The requests.
            parse: What is kept of the output for a request, by its number.
        """
        active = _setting(self.applied) if self.memo is None else self._settings()[self.memo.active]
        if self.memo is None:
            memory: dict[Hashable, dict[str, Any]] = {}
            settings = [active]
        else:
            memory = self._memory
            settings = list({each.digest(): each for each in self._settings()}.values())
        new = [index for index, key in enumerate(batch.keys) if key not in memory]
        for group in groups(settings, 1 if self.engine is None else self.engine.rows) if new else ():
            self._load(group)
            for part in parts(new, batch.sizes, len(group)):
                # settings alternate: those of one request share a batch
                sent = [(index, setting) for index in part for setting in group]
                for (index, setting), output in zip(sent, self._run(batch, sent), strict=True):
                    self._sent[setting.digest()] += 1
                    memory.setdefault(batch.keys[index], {})[setting.digest()] = parse(index, output)
        return [memory[key][active.digest()] for key in batch.keys]

    def _run(self, batch: Batch, sent: Sequence[tuple[int, Setting]]) -> list[Any]:
        """Outputs of requests, each under a setting that is loaded."""
        prompts = [batch.prompt(index) for index, _ in sent]
        parameters = [batch.parameters[index] for index, _ in sent]
        options = {"use_tqdm": self.batch_size == "auto", "lora_request": self.lora_request}
        if self.engine is None:
            return self.model.generate(prompts, sampling_params=parameters, **options)
        settings = [setting for _, setting in sent]
        return self.engine.generate(
            prompts, parameters, settings, [batch.lengths[index] for index, _ in sent], **options
        )

    def _load(self, settings: Sequence[Setting]) -> None:
        moving = [setting for setting in settings if setting.stages]
        if not moving:
            return
        engine = self._steerable()
        if {each.digest() for each in moving} <= {each.digest() for each in engine.settings}:
            return
        self._count()
        engine.load(moving)

    def _count(self) -> None:
        """Keep the counts of the rows that are about to be filled anew."""
        for digest, found in self._steerable().steered_tokens().items():
            self._moved.setdefault(digest, Counter()).update(found)

    def _settings(self) -> list[Setting]:
        """What is active, or what all of a sweep's settings are."""
        if self.memo is None:
            return [_setting(self.applied)]
        return [setting_of(configuration) for configuration in self.memo.configurations]

    def _steerable(self) -> SteeredEngine:
        if self.engine is None:
            raise GrainsError(
                "this engine was started without room for vectors; give max_settings=1, or as many as to compare"
            )
        return self.engine

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Refuse lm-eval's cache under steering, which it does not know; weights inside an engine cannot be hashed.

        Raises:
            GrainsError: `use_cache` with vectors.
        """
        if cache_hook.dbdict is not None and self.engine is not None:
            raise GrainsError("use_cache knows nothing of vectors in a vLLM engine; leave it out, or use grains_hf")
        super().set_cache_hook(cache_hook)

    def steered_tokens(self) -> dict[int, int]:
        """Per layer, tokens that the active setting has moved so far, once for every vector.

        Raises:
            GrainsError: a layer that moved other tokens than it was sent, or none where requests have prompts to move.
        """
        if self.engine is None:
            return {}
        setting = _setting(self.applied)
        digest = setting.digest()
        found = dict.fromkeys(setting.layers, 0)
        for counts in (self._moved.get(digest, {}), self.engine.steered_tokens().get(digest, {})):
            for layer, count in counts.items():
                found[layer] += count
        in_prompts = {layer for stage in setting.stages if stage.positions != "generated" for layer in stage.deltas}
        idle = [layer for layer in in_prompts if not found[layer]]
        if idle and self._sent[digest]:
            raise GrainsError(
                f"layer {idle[0]} moved no token of {self._sent[digest]} requests that were to be steered"
            )
        return found

    def get_model_info(self) -> dict[str, Any]:
        """What steered the run, and the counts that prove it.

        Raises:
            GrainsError: a layer that moved other tokens than it was sent.
        """
        used = self._documents_used()
        info: dict[str, Any] = {
            "steering": self.describe_steering(),
            "steering_fingerprint": self.steering_fingerprint(),
            "scoring_path": "vllm",
            "scoring_path_reason": "one vLLM engine",
            "evaluated_docs_used_to_build": used["build"],
            "evaluated_docs_used_to_tune": used["tune"],
        }
        if self.engine is None:
            return info
        ranks = [{name: each[name] for name in ("rank", "runner", "place", "layers")} for each in self.engine.reports]
        counts = {str(layer): count for layer, count in self.steered_tokens().items()}
        return {**info, "steered_ranks": ranks, "steered_tokens": counts}

    def steering_fingerprint(self) -> str:
        """Identifies the steering and the model by name."""
        config = self.model.llm_engine.model_config
        text = json.dumps([self._pretrained, str(config.dtype), self._moves(), NAME], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _observe(self, requests: Sequence[Instance]) -> None:
        self._check_images([request for request in requests if shows_images(request)])
        super()._observe(requests)

    def _check_images(self, shown: Sequence[Instance]) -> None:
        """Refuse requests that show images.

        Raises:
            GrainsError: there is one.
        """
        if shown:
            raise GrainsError(
                f"task {shown[0].task_name} shows images but {self._pretrained} reads text only; "
                "choose a vision-language checkpoint or leave the task out"
            )


def _setting(applied: Sequence[AppliedArtifact]) -> Setting:
    for item in applied:
        check_kind(item)
    return setting_of(
        [item.resolved for item in applied], " + ".join(f"'{item.source}'" for item in applied) or "the vectors"
    )

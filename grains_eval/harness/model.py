"""`grains_hf`: everything that lm-eval's `hf` accepts, plus steering vectors.

The registered class picks the text or the vision-language variant by the model's config. Without vectors, or at
strength 0, no hook is registered, and with `share_context=false` every number is bit-identical to `hf`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import simple_parse_args_string

from grains_eval.errors import GrainsError, one_line_errors
from grains_eval.harness.applied_artifacts import STEERING_ARGUMENTS, AppliedMixin, warn_of_other_base
from grains_eval.harness.arguments import AppliedArtifact, check_artifact, parse_steering
from grains_eval.harness.cache_key import cache_key
from grains_eval.harness.command_line import check_output
from grains_eval.harness.contrastive import ContrastMixin
from grains_eval.harness.image_requests import as_text, shows_images, split_by_images
from grains_eval.harness.images import ImageLoglikelihoodMixin
from grains_eval.harness.insertion import Insertion, insertion, into_batch, kept_tokens, out_of_batch
from grains_eval.harness.prefix_sharing.configurations import Configuration
from grains_eval.harness.prefix_sharing.image_loglikelihood import SharedImagesMixin
from grains_eval.harness.prefix_sharing.loglikelihood import Request, SharedContextMixin
from grains_eval.harness.prefix_sharing.proof import describe
from grains_eval.harness.prefix_sharing.targets import Score
from grains_eval.models.loading import check_names, is_vision_language, read_config, unknown_argument
from grains_eval.models.processes import expect_cpu_processes
from grains_eval.plugins import load_plugins
from grains_eval.steering import applied


class SteeringMixin(AppliedMixin, ContrastMixin, SharedContextMixin):
    """Adds steering and prompting to an lm-eval Hugging Face model; stands before it in the class's bases.

    Args:
        pretrained: As for `hf`.
        vectors: Artifact folder or hub id; several are joined by `+`. None is the plain model.
        strength: Strength of each, or the weight of a contrast; default: the artifact's recommendation.
        layers: Layers to steer: `14`, `8-12`, `8/14`, `all`; default: the artifact's recommendation.
        unit: `relative` or `absolute`.
        operator: A name in `steering.OPERATORS`.
        positions: `all`, `prompt`, `generated` or `last`.
        tokens: Found tokens: how many virtual ones they become; default, as for the following, the artifact's.
        distance: Tokens back to them.
        form: `kv`, `embedding` or `text`.
        share_context: Compute a context once for all its continuations.
        plugins: Modules or `.py` files with operators of the user's own, joined by `+`.
        **kwargs: As for `hf`.

    Raises:
        GrainsError: an artifact that cannot be read or does not fit, or an argument that is not known.
    """

    registered_name = "grains_hf"

    def __init__(
        self,
        pretrained: Any,
        vectors: str | None = None,
        strength: Any = None,
        layers: Any = None,
        unit: str | None = None,
        operator: str | None = None,
        positions: str | None = None,
        tokens: Any = None,
        distance: Any = None,
        form: str | None = None,
        share_context: bool = True,
        plugins: str | None = None,
        **kwargs: Any,
    ) -> None:
        load_plugins(plugins.split("+") if plugins else ())
        expect_cpu_processes()
        self._arguments = {"pretrained": pretrained, "share_context": share_context, **kwargs}
        self.applied = parse_steering(vectors, strength, layers, unit, operator, positions, tokens, distance, form)
        if not isinstance(cast(Any, share_context), bool):
            raise GrainsError(f"share_context={share_context!r} is neither true nor false")
        self.share_context = share_context
        self.forget_documents()
        _ = self.contrast  # refuses several
        adapters = [item.artifact.adapter for item in self.applied if item.artifact.adapter is not None]
        if len(adapters) + ("peft" in kwargs) > 1:
            raise GrainsError("only one adapter can be applied; drop peft= or all but one LoRA artifact")
        try:
            super().__init__(pretrained=pretrained, **kwargs)
        except TypeError as error:
            raise unknown_argument(error, (*STEERING_ARGUMENTS, "share_context")) or error from error
        if adapters:
            self._attach(adapters[0])
        for item in self.applied:
            self.check_artifact(item)
            warn_of_other_base(item, pretrained)
        self._join_processes()

    def _attach(self, adapter: Path) -> None:
        """Load a LoRA artifact's adapter; `hf`'s own `peft` would cut the vocabulary to the tokenizer's size too."""
        from peft import PeftModel

        self._model: Any = PeftModel.from_pretrained(self.model, str(adapter)).eval()
        self.peft = str(adapter)

    def _join_processes(self) -> None:
        """Share requests between CPU processes too; `hf` does so only with more than one accelerator."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.num_processes > 1 and self._world_size == 1:
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes

    @property
    def steering_configuration(self) -> Configuration:
        """What is applied to every forward pass, in order; empty for the plain model. A sweep says what is active."""
        if self.memo is not None:
            return tuple(self.memo.configurations[self.memo.active])
        return tuple(item.resolved for item in self.applied if item.resolved is not None)

    def check_artifact(self, item: AppliedArtifact) -> None:
        """Refuse an artifact that does not fit this model; see `arguments.check_artifact`."""
        check_artifact(self.model, item)

    def steer(self, applied: Sequence[AppliedArtifact]) -> None:
        """Replace the vectors that steer this model, keeping its weights; `()` is the plain model.

        Raises:
            GrainsError: vectors that do not fit, or an adapter, which needs a model of its own.
        """
        if any(item.artifact.adapter is not None for item in (*self.applied, *applied)):
            raise GrainsError("a LoRA artifact changes the weights; load a model of its own for it")
        for item in applied:
            self.check_artifact(item)
        self.applied = tuple(applied)
        self.forget_documents()

    @contextmanager
    def steering(self) -> Generator[None, None, None]:
        """Steer the model inside the block with hooks.

        Position rules hold in `generate`, and where an encoder has read the prompt, so that the decoder's is one start
        token; a pass that runs prompt and answer together is refused.
        """
        lengths = torch.ones(1, dtype=torch.long) if self.backend == "seq2seq" else None
        with ExitStack() as stack:
            for resolved in self.steering_configuration:
                stack.enter_context(applied(self.model, resolved, lengths, first_pass_is_prompt=False))
            yield

    def _observe(self, requests: Sequence[Instance]) -> None:
        """Refuse what would be left out of prompts with images, and see `AppliedMixin`."""
        if any(item.is_inserted for item in self.applied) and any(shows_images(request) for request in requests):
            raise GrainsError("form=text and form=embedding are not put into prompts with images; use form=kv")
        contrast = self.contrast
        if contrast is not None:  # refuses contexts among images
            self.prompts_without_context([each for each in requests if shows_images(each)], contrast.contexts)
        super()._observe(requests)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations under steering; see `hf`."""
        self._observe(requests)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts under steering; see `hf`."""
        self._observe(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate under steering; see `hf`."""
        self._observe(requests)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    @property
    def insertion(self) -> Insertion | None:
        """What found tokens put into every prompt; None for none."""
        items = self.inserted_tokens()
        return insertion(self.model.get_input_embeddings().weight.shape[0], items) if items else None

    def _loglikelihood_tokens(self, requests: list[Request], *arguments: Any, **keywords: Any) -> list[Score]:
        inserted = self.insertion
        if inserted is None:
            return super()._loglikelihood_tokens(requests, *arguments, **keywords)
        most = self.max_length + 1  # the answer's last token is not fed
        changed = [
            (strings, inserted.into(context, most - len(answer)), answer) for strings, context, answer in requests
        ]
        with inserted.known_to(self.model):
            return super()._loglikelihood_tokens(changed, *arguments, **keywords)

    def _model_generate(self, context: Any, max_length: int, *arguments: Any, **keywords: Any) -> Any:
        # here and not around all requests: passes with which `hf` finds a batch size are not answers
        inserted = self.insertion
        with self.steering():
            if inserted is None:
                return super()._model_generate(context, max_length, *arguments, **keywords)
            width = context.shape[1]
            # `hf` cut prompts to what the model takes without the inserted tokens
            cut = max(0, width - kept_tokens(inserted, self.max_length, max_length - width))
            ids, mask, columns = into_batch(inserted, context[:, cut:], keywords["attention_mask"][:, cut:])
            grown = max_length + ids.shape[1] - width
            with inserted.known_to(self.model):
                found = super()._model_generate(ids, grown, *arguments, **{**keywords, "attention_mask": mask})
            return torch.cat([context[:, :cut], out_of_batch(found, columns)], dim=1)  # `hf` drops `width` columns

    def _model_multimodal_generate(self, *arguments: Any, **keywords: Any) -> Any:
        with self.steering():
            return super()._model_multimodal_generate(*arguments, **keywords)

    def barrier(self) -> None:
        """As `hf`; and every process learns which documents the others evaluated, for `get_model_info`."""
        super().barrier()
        if self.world_size > 1:
            everywhere: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(everywhere, self._documents)
            for documents in everywhere:
                self._documents.update(documents)

    def get_model_info(self) -> dict[str, Any]:
        """As `hf`, plus what steered the run and how many evaluated documents were used to make it.

        The counts are those of all processes, without requests that a cache answered.
        """
        used = self._documents_used()
        path, reason = describe(self.model, self.share_context)
        return {
            **super().get_model_info(),
            "steering": self.describe_steering(),
            "steering_fingerprint": self.steering_fingerprint(),
            "scoring_path": path,
            "scoring_path_reason": reason,
            "evaluated_docs_used_to_build": used["build"],
            "evaluated_docs_used_to_tune": used["tune"],
        }

    def steering_fingerprint(self) -> str:
        """Identifies the steering, the model by name and whether contexts are shared."""
        model = [str(self.pretrained) if isinstance(self.pretrained, str) else "", self.revision, self.peft, self.delta]
        text = json.dumps(
            [model, str(self.model.dtype), self._moves(), self.share_context], sort_keys=True, default=str
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def cache_fingerprint(self) -> str:
        """Identifies all that can change an answer: two runs share cached answers only if it is the same."""
        return cache_key(self, {**self._arguments, "share_context": self.share_context}, self._moves())

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Keep the answers of every model and steering in a table of their own within lm-eval's cache file."""
        database = cache_hook.dbdict
        if database is not None:
            table = f"grains_{self.cache_fingerprint()}"
            database.tablename = table
            connection = cast(Any, database.conn)
            connection.execute(f'CREATE TABLE IF NOT EXISTS "{table}" (key TEXT PRIMARY KEY, value BLOB)')
            database.commit()
        super().set_cache_hook(cache_hook)


class GrainsHF(SteeringMixin, HFLM):
    """Text models; the class that the name `grains_hf` is registered for."""

    MULTIMODAL = True  # lm-eval would only name other model types; the error below says why images are refused

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """Build from `key=value,…`; picks the vision-language class where the config asks for it."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Any:
        """Build from a mapping; picks the vision-language class where the config asks for it."""
        one_line_errors()
        check_output()
        extra = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if "device" not in {**arg_dict, **extra} and not torch.cuda.is_available():
            extra["device"] = "cpu"  # `hf` would insist on its default "cuda"
        check_names({**arg_dict, **extra})
        kind = GrainsHFMultimodal if is_vision_language(read_config(arg_dict)) else cls
        return kind(**{**extra, **arg_dict})

    def _observe(self, requests: Sequence[Instance]) -> None:
        shown = next((request for request in requests if shows_images(request)), None)
        if shown is not None:
            raise GrainsError(
                f"task {shown.task_name} shows images but {type(self.model).__name__} reads text only; "
                "choose a vision-language checkpoint or leave the task out"
            )
        super()._observe(requests)


class GrainsHFMultimodal(SteeringMixin, SharedImagesMixin, ImageLoglikelihoodMixin, HFMultimodalLM):
    """Vision-language models, images in log-likelihoods included."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations, with images where the requests have them; both kinds may come mixed."""
        seeing, reading = split_by_images(requests)
        answers = dict[int, tuple[float, bool]]()
        if reading:
            plain = [as_text(requests[index]) for index in reading]
            answers.update(zip(reading, super().loglikelihood(plain, disable_tqdm=disable_tqdm), strict=True))
        if seeing:
            shown = self.instructed([requests[index] for index in seeing])
            self._observe(shown)
            scored = ImageLoglikelihoodMixin.loglikelihood(self, shown, disable_tqdm=disable_tqdm)
            answers.update(zip(seeing, scored, strict=True))
        return [answers[index] for index in range(len(requests))]

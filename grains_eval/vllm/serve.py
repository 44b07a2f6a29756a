"""Steering under `vllm serve`: `GRAINS_VECTORS=folder[,name=folder…]` steers every request, and a request may choose.

`extra_body={"steering": {"vectors": name, "strength": s, "prompt": n}}` chooses among the names that were registered
when the server started; nothing is loaded from a request. Every request goes to the part of the prefix cache that its
steering has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib import import_module
from math import isfinite
from pathlib import PurePath
from typing import Any, cast

from grains_eval.errors import GrainsError, one_line_errors, unknown
from grains_eval.harness.arguments import parse_steering
from grains_eval.steering import resolve
from grains_eval.types import SteeringConfig
from grains_eval.vllm.attach import CONFIG_KEY, engine_config, steering_config
from grains_eval.vllm.engine import WORKER, prefer_first_runner
from grains_eval.vllm.runner import ARGUMENT
from grains_eval.vllm.settings import Setting, salt, setting_of
from grains_eval.vllm.verify import (
    CANARY_PROMPT,
    CANARY_SHIFT,
    Canary,
    canary_logprobs,
    canary_parameters,
    canary_tokens,
    check_reports,
    judge,
)

VARIABLE = "GRAINS_VECTORS"
FIELD = "steering"  # of a request
_KEYS = ("vectors", "strength", "prompt")
_REQUESTS = (
    ("vllm.entrypoints.openai.completion.protocol", "CompletionRequest"),
    ("vllm.entrypoints.openai.chat_completion.protocol", "ChatCompletionRequest"),
    ("vllm.entrypoints.openai.responses.protocol", "ResponsesRequest"),
)


@dataclass(frozen=True)
class Served:
    """One registered artifact.

    Attributes:
        row: Of the tables.
        setting: At strength 1, so that a request may have any.
        strength: What the artifact recommends.
    """

    row: int
    setting: Setting
    strength: float


def is_wanted() -> bool:
    """Whether vectors are to be served."""
    return bool(os.environ.get(VARIABLE, "").strip())


@cache
def registered() -> dict[str, Served]:
    """What `GRAINS_VECTORS` names, the default first.

    Raises:
        GrainsError: an artifact that cannot be read or has no vectors, or a name that is given twice.
    """
    found: dict[str, Served] = {}
    for part in os.environ.get(VARIABLE, "").split(","):
        name, given, source = part.strip().rpartition("=")
        name = name if given else PurePath(source).name
        if not source or not name:
            raise GrainsError(f"{VARIABLE}: '{part}' is neither a folder nor name=folder")
        if name in found:
            raise GrainsError(f"{VARIABLE}: the name '{name}' is given twice; write other=folder")
        applied = parse_steering(source)
        config = applied[0].config
        if len(applied) != 1 or applied[0].artifact.vectors is None or not isinstance(config, SteeringConfig):
            raise GrainsError(
                f"{VARIABLE}: '{source}' holds no vectors, or several joined by +; give one folder a name"
            )
        one = resolve(applied[0].artifact.vectors, replace(config, strength=1.0))
        found[name] = Served(len(found) + 1, setting_of((one,), f"'{source}'"), config.strength)
    return found


@dataclass(frozen=True)
class Choice:
    """What a request asks for; `served` is None for the plain model."""

    served: Served | None
    strength: float = 0.0
    prompt: int | None = None


def choose(wanted: Any) -> Choice:
    """Read the `steering` field of a request; None is the default.

    Raises:
        GrainsError: an unknown key or name, or a value of another kind.
    """
    known = registered()
    default = next(iter(known))
    if wanted is not None and not isinstance(wanted, dict):
        raise GrainsError(f"{FIELD} is an object such as {{'vectors': '{default}', 'strength': 1.0}}, not {wanted!r}")
    given = cast("dict[str, Any]", wanted or {})
    strange = [key for key in given if key not in _KEYS]
    if strange:
        raise unknown(strange[0], _KEYS, f"key of {FIELD}")
    name = given.get("vectors", default)
    if name is None:
        return Choice(None)
    if not isinstance(name, str) or name not in known:
        raise unknown(name, known, "vectors")
    served = known[name]
    strength, prompt = given.get("strength", served.strength), given.get("prompt")
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not isfinite(strength):
        raise GrainsError(f"{FIELD}.strength={strength!r} is not a finite number")
    if prompt is not None and (isinstance(prompt, bool) or not isinstance(prompt, int) or prompt < 0):
        raise GrainsError(f"{FIELD}.prompt={prompt!r} is not a number of tokens")
    return Choice(served, float(strength), prompt)


def asked(parameters: Any) -> Choice:
    """What sampling parameters ask for.

    Raises:
        GrainsError: see `choose`; the steering's own arguments; or a text that is scored as a whole under a position
            rule.
    """
    arguments: dict[str, Any] = parameters.extra_args or {}
    if ARGUMENT in arguments:
        raise GrainsError(f"'{ARGUMENT}' is the steering's own; choose with {FIELD}")
    choice = choose(arguments.get(FIELD))
    scored = parameters.prompt_logprobs is not None
    if choice.served is not None and choice.served.setting.by_position and scored and choice.prompt is None:
        raise GrainsError(
            f"where the prompt ends in a text that is scored as a whole is not known; say {FIELD}.prompt=<tokens>"
        )
    return choice


def place(request: Any) -> Any:
    """Send a request of the engine to the row and the part of the prefix cache that it asks for.

    Raises:
        GrainsError: see `asked`.
    """
    parameters = request.sampling_params
    if parameters is None:
        return request
    choice = asked(parameters)
    arguments: dict[str, Any] = {k: v for k, v in (parameters.extra_args or {}).items() if k != FIELD}
    parameters.extra_args = arguments or None
    if choice.served is None or choice.strength == 0:
        return request
    setting, length = choice.served.setting, choice.prompt
    if length is None:
        length = len(request.prompt_token_ids if request.prompt_embeds is None else request.prompt_embeds)
    digest = setting.digest()
    parameters.extra_args = {
        **arguments,
        ARGUMENT: {"row": choice.served.row, "digest": digest, "prompt": length, "strength": choice.strength},
    }
    own = salt(digest, choice.strength, length if setting.by_position else None)
    request.cache_salt = f"{request.cache_salt or ''}|{own}"
    return request


def install() -> None:
    """Patch what makes an engine's configuration, reads requests and starts a server."""
    _patch("vllm.engine.arg_utils", "EngineArgs", "create_engine_config", _configured)
    _patch("vllm.v1.engine.input_processor", "InputProcessor", "process_inputs", _placed)
    _patch("vllm.v1.engine.async_llm", "AsyncLLM", "get_supported_tasks", _checked)
    for module, name in _REQUESTS:
        _patch(module, name, "to_sampling_params", _read)


def _patch(module: str, name: str, method: str, made: Any) -> None:
    kind = getattr(import_module(module), name)
    inner = getattr(kind, method)
    if not hasattr(inner, "grains_inner"):
        outer: Any = wraps(inner)(made(inner))
        outer.grains_inner = inner
        setattr(kind, method, outer)


def _configured(inner: Any) -> Any:
    def create_engine_config(self: Any, *arguments: Any, **keywords: Any) -> Any:
        additional: dict[str, Any] = dict(self.additional_config or {})
        # an offline engine in the same environment, a baseline for instance, is nobody's server
        usage = keywords.get("usage_context", arguments[0] if arguments else None)
        if CONFIG_KEY not in additional and getattr(usage, "name", "") == "OPENAI_API_SERVER":
            one_line_errors(VARIABLE, anywhere=True)
            if self.worker_extension_cls and self.worker_extension_cls != WORKER:
                raise GrainsError("worker_extension_cls is what the steering is loaded through; leave it out")
            prefer_first_runner()
            stages = max([1, *(len(each.setting.stages) for each in registered().values())])
            self.additional_config = {**additional, **engine_config(len(registered()), stages, served=True)}
            self.worker_extension_cls = WORKER
        return inner(self, *arguments, **keywords)

    return create_engine_config


def _placed(inner: Any) -> Any:
    def process_inputs(self: Any, *arguments: Any, **keywords: Any) -> Any:
        request = inner(self, *arguments, **keywords)
        return place(request) if _is_served(self.vllm_config) else request

    return process_inputs


def _read(inner: Any) -> Any:
    def to_sampling_params(self: Any, *arguments: Any, **keywords: Any) -> Any:
        parameters = inner(self, *arguments, **keywords)
        wanted = (self.model_extra or {}).get(FIELD)
        if wanted is not None:
            parameters.extra_args = {**(parameters.extra_args or {}), FIELD: wanted}
        asked(parameters)  # an error here is the client's
        return parameters

    return to_sampling_params


def _checked(inner: Any) -> Any:
    async def get_supported_tasks(self: Any) -> Any:
        if _is_served(self.vllm_config) and not hasattr(self, "grains_checked"):
            self.grains_checked = True
            await check_server(self)
        return await inner(self)

    return get_supported_tasks


def _is_served(vllm_config: Any) -> bool:
    wanted = steering_config(vllm_config)
    return wanted is not None and bool(wanted["served"])


async def check_server(engine: Any) -> None:
    """Before a server takes requests: see every rank report its layers, and a canary text change as it should.

    Raises:
        GrainsError: see `verify`.
    """
    known = registered()
    settings = [each.setting for each in known.values()]
    check_reports(await engine.collective_rpc("grains_report"), settings, loaded=True)
    tokens = canary_tokens(engine.model_config)

    async def logprobs(name: str | None) -> list[float]:
        parameters = canary_parameters()
        parameters.extra_args = {FIELD: {"vectors": name, "strength": 1.0, "prompt": CANARY_PROMPT}}
        answers = engine.generate({"prompt_token_ids": tokens}, parameters, f"grains-canary-{name}")
        return canary_logprobs(tokens, [each async for each in answers][-1])

    usual = [await logprobs(name) for name in (None, *known)]
    await engine.collective_rpc("grains_reference", args=(True,))
    plain = [await logprobs(name) for name in (None, *known)]
    reports = await engine.collective_rpc("grains_report")
    await engine.collective_rpc("grains_reference", args=(True, CANARY_SHIFT))
    shifted = await logprobs(None)
    await engine.collective_rpc("grains_reference", args=(False,))
    await engine.reset_prefix_cache()
    judge(Canary(usual, plain, shifted), settings, reports, engine.model_config.dtype.itemsize)

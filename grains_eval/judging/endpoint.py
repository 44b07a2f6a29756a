"""Ask an OpenAI-compatible endpoint: several requests at once, retried with backoff, each answered once and for all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from grains_eval.errors import GrainsError
from grains_eval.judging.replies import Reply, ReplyFile
from grains_eval.progress import Progress

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# of HTTP 400: what is wrong with this one item, and not with every request
_ABOUT_ONE = frozenset({"content_filter", "content_policy_violation", "context_length_exceeded"})


@dataclass(frozen=True)
class Endpoint:
    """A judge.

    Attributes:
        base_url: Up to `/v1`; the key is read from `OPENAI_API_KEY`.
        model: Its name there.
        concurrency: Requests under way at once.
        max_requests: New requests in one run at most; None for as many as there are. Retries do not count.
        retries: Further attempts after 408, 409, 429, 5xx, a time-out or a lost connection; `Retry-After` is respected.
        timeout: Seconds until an attempt counts as lost.
    """

    base_url: str
    model: str
    concurrency: int = 8
    max_requests: int | None = None
    retries: int = 6
    timeout: float = 120.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        least = {"concurrency": 1, "retries": 0, "max_requests": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise GrainsError(f"--{name} {value} is too small; give {low} or more")
        if not self.timeout > 0:
            raise GrainsError(f"--timeout {self.timeout:g} is no time; give seconds above 0")
        if not self.base_url.startswith(("http://", "https://")):
            raise GrainsError(f"--base_url '{self.base_url}' is no address; write for example http://127.0.0.1:8000/v1")


def ask(endpoint: Endpoint, requests: Mapping[str, Mapping[str, Any]], replies: ReplyFile, progress: Progress) -> None:
    """Have every request answered that is not yet.

    Args:
        endpoint: Whom to ask.
        requests: Model, messages and parameters, by key.
        replies: What is known already; grows by each answer as it comes, and ends in the order of the requests.
        progress: Shows how far one is.

    Raises:
        GrainsError: the endpoint cannot be reached, refuses, or the cap was met; all answers so far are kept.
    """
    with replies.open():
        missing = [key for key in requests if key not in replies.replies]
        asked = missing if endpoint.max_requests is None else missing[: endpoint.max_requests]
        if asked:
            asyncio.run(_ask_all(endpoint, {key: requests[key] for key in asked}, replies, progress))
        if len(asked) < len(missing):
            raise GrainsError(
                f"stopped at the cap of {endpoint.max_requests} requests; {_kept(requests, replies)}; run the same "
                "command again to go on"
            )
        replies.settle(requests)


def _kept(requests: Mapping[str, Any], replies: ReplyFile) -> str:
    known = sum(key in replies.replies for key in requests)
    return f"{known} of {len(requests)} replies are in '{replies.file}'"


async def _ask_all(
    endpoint: Endpoint, requests: Mapping[str, Mapping[str, Any]], replies: ReplyFile, progress: Progress
) -> None:
    free = asyncio.Semaphore(endpoint.concurrency)

    async def one(client: AsyncOpenAI, key: str) -> None:
        async with free:
            replies.add(key, await _answer(client, requests[key], endpoint.retries))

    async with _client(endpoint) as client:
        tasks = [asyncio.create_task(one(client, key)) for key in requests]
        completed = asyncio.as_completed(tasks)
        try:
            for _ in progress(tasks, f"asking {endpoint.model}"):
                await next(completed)
        except Exception as error:
            raise _lost(error, endpoint, replies) from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _client(endpoint: Endpoint) -> AsyncOpenAI:
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise GrainsError("a judge needs the package openai; pip install 'grains-eval[judge]'") from error
    return AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",  # servers of one's own ask for no key
        max_retries=endpoint.retries,
        timeout=endpoint.timeout,
    )


async def _answer(client: AsyncOpenAI, request: Mapping[str, Any], retries: int) -> Reply:
    """One answer; a refusal of this item alone is an answer too."""
    from openai import BadRequestError

    for left in reversed(range(retries + 1)):
        try:
            found = await client.chat.completions.create(**request)
            choice = found.choices[0]
            return Reply(choice.message.content or "", str(choice.finish_reason or ""), str(found.model or ""))
        except BadRequestError as error:
            if error.code not in _ABOUT_ONE:
                raise
            return Reply("", error=f"{error.code}: {' '.join(error.message.split())}")
        except (JSONDecodeError, AttributeError, IndexError, TypeError):  # a body that was cut off, yet of its length
            if not left:
                raise
            await asyncio.sleep(min(8.0, 0.5 * 2 ** (retries - left)))
    raise AssertionError("unreachable")


def _lost(error: Exception, endpoint: Endpoint, replies: ReplyFile) -> Exception:
    """The one line for an endpoint that does not answer, or not so."""
    import openai

    if isinstance(error, OSError):  # of the connection the client makes errors of its own
        return OSError(error.errno, error.strerror, str(replies.file))
    again = f"{len(replies.replies)} replies are kept in '{replies.file}'; run the same command again to go on"
    if isinstance(error, openai.APITimeoutError):
        return GrainsError(f"the judge at {endpoint.base_url} did not answer within {endpoint.timeout:g} s; {again}")
    if isinstance(error, openai.APIConnectionError):
        cause = " ".join(str(error.__cause__ or error).split())
        return GrainsError(f"the judge at {endpoint.base_url} cannot be reached ({cause}); {again}")
    if isinstance(error, openai.APIStatusError):
        said = " ".join(error.message.split())[:300]
        return GrainsError(f"the judge at {endpoint.base_url} answered {error.status_code}: {said}; {again}")
    if isinstance(error, JSONDecodeError | AttributeError | IndexError | TypeError):
        return GrainsError(f"the judge at {endpoint.base_url} gave no chat completion ({error}); {again}")
    if isinstance(error, openai.OpenAIError):
        return GrainsError(
            f"the judge at {endpoint.base_url} cannot be asked ({' '.join(str(error).split())}); {again}"
        )
    raise error

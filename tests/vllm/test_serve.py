"""A real server on 127.0.0.1: what it steers by default, what requests choose, and lm-eval's own client on it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.types import SteeringVectors
from grains_eval.vllm import serve
from tests.vllm import checks
from tests.vllm.families import build

ROOT = Path(__file__).resolve().parents[2]


def saved(place, seed, **changes):
    item = checks.applied(seed, (1, 3), **changes)
    return save_vectors(replace(item.artifact.vectors, recommended=item.config), place)


@pytest.fixture
def names(tmp_path, monkeypatch):
    one = saved(tmp_path / "one", 1, strength=0.8)
    two = saved(tmp_path / "two", 2, strength=0.5, positions="prompt")
    monkeypatch.setenv(serve.VARIABLE, f"{one},other={two}")
    serve.registered.cache_clear()
    yield
    serve.registered.cache_clear()


def parameters(**changes):
    return SimpleNamespace(**{"extra_args": None, "prompt_logprobs": None, **changes})


def request(**changes):
    given = parameters(**changes)
    return SimpleNamespace(sampling_params=given, cache_salt=None, prompt_token_ids=[1, 2, 3], prompt_embeds=None)


def test_names_are_those_of_the_start(names):
    assert list(serve.registered()) == ["one", "other"]
    assert serve.choose(None).served.row == 1 and serve.choose(None).strength == 0.8
    assert serve.choose({"vectors": "other", "strength": 2}).strength == 2.0
    assert serve.choose({"vectors": None}).served is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"vectors": "../elsewhere"}, "unknown vectors '../elsewhere': known are one, other"),
        ({"strengh": 1.0}, "unknown key of steering 'strengh': did you mean 'strength'"),
        ({"strength": "1"}, "steering.strength='1' is not a finite number"),
        ({"strength": float("nan")}, "not a finite number"),
        ({"prompt": -1}, "steering.prompt=-1 is not a number of tokens"),
        ("one", "steering is an object"),
    ],
)
def test_what_a_request_may_not_say(names, wanted, message):
    with pytest.raises(GrainsError) as error:
        serve.choose(wanted)
    assert message in str(error.value)


def test_requests_go_to_their_part_of_the_cache(names):
    wanted = [None, {"strength": 1.0}, {"vectors": "other"}, {"vectors": "other", "prompt": 2}]
    placed = [serve.place(request(extra_args=None if each is None else {"steering": each})) for each in wanted]
    assert len({each.cache_salt for each in placed}) == len(wanted)
    assert placed[0].cache_salt == serve.place(request()).cache_salt
    assert serve.place(request(extra_args={"steering": {"strength": 0}})).cache_salt is None
    own = request()
    own.cache_salt = "mine"
    assert serve.place(own).cache_salt == "mine" + str(placed[0].cache_salt)


def test_rows_cannot_be_asked_for_directly(names):
    with pytest.raises(GrainsError, match="the steering's own"):
        serve.place(request(extra_args={"grains_eval": {"row": 2}}))
    with pytest.raises(GrainsError, match=r"say steering.prompt=<tokens>"):
        serve.place(request(extra_args={"steering": {"vectors": "other"}}, prompt_logprobs=1))


def _command(folder, port):
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--distributed-executor-backend", "uni"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    folder = build("llama", place / "llama")
    one, two = saved(place / "one", 1, strength=0.8), saved(place / "two", 2, strength=0.5, operator="add")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {**os.environ, serve.VARIABLE: f"{one},other={two}", "PYTHONPATH": str(ROOT)}
    with (place / "log").open("w") as log:
        process = subprocess.Popen(_command(folder, port), env=variables, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(900):
            if process.poll() is not None:
                raise AssertionError((place / "log").read_text()[-3000:])
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(1)
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1/completions", folder=folder)
    finally:
        process.terminate()
        process.wait(60)


def ask(server, **body):
    whole = {"model": "tiny", "prompt": "what is the capital of france", "max_tokens": 4, "temperature": 0, **body}
    sent = urllib.request.Request(server.url, json.dumps(whole).encode(), {"Content-Type": "application/json"})
    try:
        return json.loads(urllib.request.urlopen(sent, timeout=120).read())["choices"][0]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]["message"]


@pytest.mark.vllm
@pytest.mark.slow
def test_vectors_of_another_model_end_the_start_in_one_line(tmp_path):
    folder = build("llama", tmp_path / "llama")
    vectors = SteeringVectors({1: torch.ones(5)}, {1: 1.0}, provenance={"method": "x"})
    wrong = save_vectors(vectors, tmp_path / "wrong")
    done = subprocess.run(
        _command(folder, 0),
        env={**os.environ, serve.VARIABLE: str(wrong), "PYTHONPATH": str(ROOT), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2
    # what Python's resource tracker says of a process that ends comes after it
    assert (
        f"{serve.VARIABLE}: LlamaForCausalLM on rank 0 cannot be steered in vLLM: the served vectors have width 5 at "
        "layer 1 but it needs 64; they were built for another model"
    ) in said
    assert not any("Traceback" in line for line in [*said, *done.stdout.splitlines()])


@pytest.mark.vllm
@pytest.mark.slow
def test_the_harness_evaluates_a_steered_server(server):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    client = LocalCompletionsAPI(
        model="tiny",
        base_url=server.url,
        tokenizer=str(server.folder),
        tokenizer_backend="huggingface",
        batch_size=4,
        add_bos_token=True,  # as grains_hf does
    )
    theirs = checks.reference(server.folder)
    asked = checks.requests("loglikelihood", 6)
    plain = theirs.loglikelihood(asked, disable_tqdm=True)
    theirs.steer((checks.applied(1, (1, 3), strength=0.8),))
    wanted = theirs.loglikelihood(asked, disable_tqdm=True)
    found = client.loglikelihood(asked, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=1e-3)
    assert max(abs(one[0] - other[0]) for one, other in zip(wanted, plain, strict=True)) > 0.1

    def chosen(setting, **steering):
        theirs.steer(setting)
        (request,) = checks.requests("generate_until", 1)
        answer = ask(server, prompt=request.args[0], max_tokens=6, ignore_eos=True, **steering)["text"]
        return answer.rstrip("\ufffd"), theirs.generate_until([request], disable_tqdm=True)[0].rstrip("\ufffd")

    stronger = checks.applied(2, (1, 3), strength=1.5, operator="add")
    for setting, steering in (
        ((checks.applied(1, (1, 3), strength=0.8),), {}),
        ((stronger,), {"steering": {"vectors": "other", "strength": 1.5}}),
        ((), {"steering": {"vectors": None}}),
        ((), {"steering": {"strength": 0}}),
    ):
        ours, reference = chosen(setting, **steering)
        assert ours.startswith(reference) or reference.startswith(ours)
    assert ask(server, steering={"vectors": "nope"}) == (400, "unknown vectors 'nope': known are one, other")
    assert ask(server, vllm_xargs={"grains_eval": 1})[0] == 400

"""The endpoint under faults: what is retried, what ends the run in one line, and what is kept."""

from __future__ import annotations

import time

import pytest

from grains_eval.errors import GrainsError
from grains_eval.judging.endpoint import Endpoint, ask
from grains_eval.judging.replies import ReplyFile, request_key
from grains_eval.progress import silent
from tests.judging.server import serving

pytest.importorskip("openai")


def requests(count):
    made = [{"model": "m", "messages": [{"role": "user", "content": f"text {number}"}]} for number in range(count)]
    return {request_key(each): each for each in made}


def shout(text):
    return text.upper()


def put(server, file, count=4, **options):
    asked = requests(count)
    replies = ReplyFile(file)
    ask(
        Endpoint(server.url, "m", **{"concurrency": 2, "timeout": 1.0, "retries": 4, **options}), asked, replies, silent
    )
    return [replies.replies[key].text for key in asked]


@pytest.mark.parametrize("fault", ("429", "500", "cut", "half", "html", "slow"))
def test_passing_faults_are_survived(fault, tmp_path):
    with serving(shout, faults=[fault, fault]) as server:
        assert put(server, tmp_path / "r.jsonl") == [f"TEXT {number}" for number in range(4)]
        assert len(server.asked) == 6 and len(set(server.texts())) == 4


def test_retry_after_is_respected(tmp_path):
    with serving(shout, faults=["429"], retry_after="2") as server:
        put(server, tmp_path / "r.jsonl", count=1)
        assert server.times[1] - server.times[0] >= 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", "answered 500: .*fault 500"),
        ("429", "answered 429: "),
        ("401", "answered 401: "),
        ("404", "answered 404: "),
        ("slow", "did not answer within 0.3 s"),
        ("cut", "cannot be reached"),
        ("half", "gave no chat completion"),
    ],
)
def test_lasting_faults_end_in_one_line_and_keep_what_is_there(fault, message, tmp_path):
    file = tmp_path / "r.jsonl"
    with serving(shout) as server:
        put(server, file, count=2)
    with serving(shout, broken=lambda text: fault) as server:
        with pytest.raises(GrainsError, match=message) as raised:
            put(server, file, retries=1, timeout=0.3)
        assert len(server.asked) >= (1 if fault in ("401", "404") else 2)
    said = str(raised.value)
    assert "\n" not in said and "2 replies are kept" in said and "run the same command again to go on" in said
    with serving(shout) as server:
        assert put(server, file) == [f"TEXT {number}" for number in range(4)]
        assert len(server.asked) == 2  # those that were missing


def test_a_server_that_goes_half_way(tmp_path):
    file = tmp_path / "r.jsonl"
    with serving(shout, faults=["", "", "", "gone"]) as server:
        with pytest.raises(GrainsError, match=r"cannot be reached .*; \d replies are kept"):
            put(server, file, count=8, retries=1, concurrency=1)
        assert not server.faults
    assert len(ReplyFile(file).replies) == 3
    with serving(shout) as server:
        assert put(server, file, count=8) == [f"TEXT {number}" for number in range(8)]
        assert len(server.asked) == 5


def test_nobody_there(tmp_path):
    with serving(shout) as server:
        pass
    with pytest.raises(GrainsError, match="cannot be reached"):
        put(server, tmp_path / "r.jsonl", retries=0)


def test_a_refused_item_is_an_answer_and_asked_once(tmp_path):
    with serving(shout, broken=lambda text: "filter" if text == "text 1" else "") as server:
        assert put(server, tmp_path / "r.jsonl") == ["TEXT 0", "", "TEXT 2", "TEXT 3"]
        put(server, tmp_path / "r.jsonl")
        assert len(server.asked) == 4
    replies = ReplyFile(tmp_path / "r.jsonl").replies.values()
    error = next(reply.error for reply in replies if reply.error)
    assert error.startswith("content_filter: ") and "not allowed here" in error


def test_concurrency_is_what_was_asked_for(tmp_path):
    with serving(shout, delay=0.1) as server:
        start = time.monotonic()
        put(server, tmp_path / "r.jsonl", count=12, concurrency=4)
        assert server.most_at_once == 4 and time.monotonic() - start < 1.1


def test_the_cap_counts_new_requests(tmp_path):
    file = tmp_path / "r.jsonl"
    with serving(shout, faults=["500"]) as server:
        with pytest.raises(GrainsError, match="stopped at the cap of 3 requests; 3 of 4 replies are in"):
            put(server, file, max_requests=3)
        assert len(set(server.texts())) == 3
        assert put(server, file, max_requests=3) == [f"TEXT {number}" for number in range(4)]
        assert len(set(server.texts())) == 4


def test_the_key_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(shout) as server:
        put(server, tmp_path / "r.jsonl", count=1)
        assert server.asked[0]["key"] == "Bearer secret" and server.asked[0]["path"] == "/v1/chat/completions"
    assert "secret" not in (tmp_path / "r.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "--concurrency 0 is too small; give 1 or more"),
        ({"retries": -1}, "--retries -1 is too small"),
        ({"max_requests": 0}, "--max_requests 0 is too small"),
        ({"timeout": 0.0}, "--timeout 0 is no time"),
    ],
)
def test_numbers_that_mean_nothing(options, message):
    with pytest.raises(GrainsError, match=message):
        Endpoint("http://127.0.0.1/v1", "m", **options)
    with pytest.raises(GrainsError, match="is no address"):
        Endpoint("127.0.0.1/v1", "m")

"""The file of replies: half a line is dropped, a damaged one is named, its order is that of the requests."""

from __future__ import annotations

import resource

import pytest

from grains_eval.errors import GrainsError
from grains_eval.judging.replies import Reply, ReplyFile, request_key


def written(file, keys):
    replies = ReplyFile(file)
    with replies.open():
        for key in keys:
            replies.add(key, Reply(f"réponse {key}", "stop", "m"))
    return replies


def settled(file, keys, order):
    replies = written(file, keys)
    with replies.open():
        replies.settle(order)
    return replies


def test_every_reply_is_on_disk_at_once(tmp_path):
    replies = ReplyFile(tmp_path / "r.jsonl")
    with replies.open():
        replies.add("a", Reply("x"))
        assert ReplyFile(tmp_path / "r.jsonl").replies == {"a": Reply("x")}


def test_two_processes_do_not_ask_at_once(tmp_path):
    first, second = ReplyFile(tmp_path / "r.jsonl"), ReplyFile(tmp_path / "r.jsonl")
    with first.open():
        with pytest.raises(GrainsError, match="another process is asking into"), second.open():
            pass
        first.add("a", Reply("x"))
    with second.open():
        second.add("b", Reply("y"))
    assert list(ReplyFile(tmp_path / "r.jsonl").replies) == ["a", "b"]


@pytest.mark.parametrize("cut", (1, 5, 40))
def test_half_a_line_is_asked_again(cut, tmp_path):
    file = tmp_path / "r.jsonl"
    written(file, "abc")
    file.write_bytes(file.read_bytes()[:-cut])
    assert list(ReplyFile(file).replies) == ["a", "b"]
    written(file, "c")
    assert list(ReplyFile(file).replies) == ["a", "b", "c"]


@pytest.mark.parametrize("line", ("{", "[]", '{"text": "x"}', '{"key": "a", "txt": "x"}'))
def test_a_damaged_line_is_named(line, tmp_path):
    file = tmp_path / "r.jsonl"
    written(file, "ab")
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(GrainsError, match="line 3 is not a reply"):
        ReplyFile(file)


def test_the_order_is_that_of_the_requests(tmp_path):
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    settled(first, "abcd", "abcd")
    written(second, "db")
    settled(second, "ca", "abcd")
    assert first.read_bytes() == second.read_bytes()


def test_replies_that_another_process_added_stay(tmp_path):
    """Both read the file before either asked: a reply that was paid for is not lost when the other one settles."""
    file = tmp_path / "r.jsonl"
    first, second = ReplyFile(file), ReplyFile(file)
    for replies, key in ((first, "b"), (second, "a")):
        with replies.open():
            replies.add(key, Reply(key))
            replies.settle(key)
    assert ReplyFile(file).replies == {"a": Reply("a"), "b": Reply("b")}
    with first.open():
        assert set(first.replies) == {"a", "b"}  # known before anything is asked


def test_replies_of_other_tasks_stay(tmp_path):
    settled(tmp_path / "r.jsonl", "dcba", "cb")
    assert list(ReplyFile(tmp_path / "r.jsonl").replies) == ["c", "b", "a", "d"]


def test_reading_never_writes(tmp_path):
    """Half a line may be one that another process is writing."""
    file = tmp_path / "r.jsonl"
    written(file, "abc")
    half = file.read_bytes()[:-5]
    file.write_bytes(half)
    assert list(ReplyFile(file).replies) == ["a", "b"] and file.read_bytes() == half


def test_the_lock_outlasts_a_rewritten_file(tmp_path):
    file = tmp_path / "r.jsonl"
    first = ReplyFile(file)
    with first.open():
        first.add("a", Reply("x"))
        first.settle("a")
        second = ReplyFile(file)
        with pytest.raises(GrainsError, match="another process is asking into"), second.open():
            pass
        first.add("b", Reply("y"))
    assert list(ReplyFile(file).replies) == ["a", "b"]


def test_a_key_is_all_of_the_request():
    base = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0}
    assert request_key(base) == request_key(dict(reversed(base.items())))
    assert len({request_key({**base, **change}) for change in ({}, {"model": "n"}, {"temperature": 1})}) == 3


def test_a_reply_that_the_disk_had_no_room_for_leaves_nothing_of_itself(tmp_path):
    replies = ReplyFile(tmp_path / "r.jsonl")
    inherited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with replies.open():
        replies.add("a", Reply("one"))
        before = replies.file.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 90, inherited[1]))
            with pytest.raises(OSError, match="too large"):
                replies.add("b", Reply("x" * 500))
            assert replies.file.read_bytes() == before
            replies.add("c", Reply("three"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, inherited)
    assert list(ReplyFile(replies.file).replies) == ["a", "c"]


def test_half_of_a_surrogate_pair_is_kept_as_it_came(tmp_path):
    replies, half = ReplyFile(tmp_path / "r.jsonl"), "rating: 4 \ud83d"
    with replies.open():
        replies.add("a", Reply(half))
        replies.settle(["a"])
    assert ReplyFile(replies.file).replies["a"].text == half
    assert request_key({"content": half}) != request_key({"content": "rating: 4 "})

"""A real server: `transformers serve` with a tiny model, whose replies are nonsense and counted as that."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from transformers.utils.import_utils import is_serve_available

from grains_eval.comparison.logs import read_run
from grains_eval.judging.endpoint import Endpoint
from grains_eval.judging.pointwise import Request, judge_run
from tests.judging.runs import write

pytest.importorskip("openai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="transformers[serving] is not installed"),
]


@pytest.fixture
def served(tiny_text):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = str(tiny_text("llama"))
    code = "from transformers.cli.transformers import main; main()"
    words = ["serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except (OSError, urllib.error.URLError):
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait(20)


def test_replies_of_a_real_server_are_kept_and_counted(served, tmp_path):
    url, model = served
    rows = []
    for name in ("first", "second"):
        folder = write(tmp_path / name, count=4)
        endpoint = Endpoint(url, model, concurrency=2, retries=1)
        found = judge_run(read_run(folder), endpoint, Request(generation={"max_tokens": 8}))[0]
        assert sum(found.reasons.values()) == 4
        file = next(folder.rglob("samples_mmhal_bench_judged_*.jsonl"))
        rows.append([json.loads(line) for line in file.read_text().splitlines()])
    assert all(row["judge"]["reply"] and row["judge_score"] is None for row in rows[0])
    assert rows[0] == rows[1]  # greedy
    assert read_run(tmp_path / "first").setting("configs", "mmhal_bench_judged", "judge_served")

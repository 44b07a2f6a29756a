"""Prompts of tasks under a chat template."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples
from tests.examples.sources import task_data


def test_chat_templates_are_rendered_from_messages(tasks, loaded_text):
    loaded = loaded_text("qwen2")
    example = load_examples(task_data(chat_template=True), loaded, tasks()).build[0]
    assert [message.role for message in example.prompt] == ["user"]
    assert example.chosen.startswith("yes"), "the harness drops the delimiter after a chat template"
    with pytest.raises(GrainsError, match="needs a model"):
        load_examples(task_data(chat_template=True), include_path=tasks())


def test_template_tokens_are_no_candidates(tasks, loaded_text):
    from grains_eval.models import encode

    loaded = loaded_text("qwen2")
    encoded = encode(loaded, load_examples(task_data(chat_template=True), loaded, tasks()).build[0])
    content = loaded.tokenizer.decode(encoded.input_ids[encoded.is_candidate])
    assert content.startswith("Question: capital")
    assert content.endswith("Answer:")
    assert "user" in loaded.tokenizer.decode(encoded.input_ids[~encoded.is_candidate])

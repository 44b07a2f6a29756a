"""A model whose chat template is the test's."""

from __future__ import annotations

import pytest

STARTS_ANSWER = "{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture
def templated(loaded_text, monkeypatch):
    loaded = loaded_text("llama")

    def with_template(template: str):
        monkeypatch.setattr(loaded.tokenizer, "chat_template", template + STARTS_ANSWER)
        return loaded

    return with_template

"""Where the user's words stand in a prompt that a chat template wrote."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.models.chat import render
from grains_eval.types import Message

TURNS = "{% for m in messages %}<{{ m.role }}> CONTENT </{{ m.role }}>\n{% endfor %}"
TEMPLATES = {
    "as it is": "m.content",
    "trimmed": "m.content | trim",
    "stripped by method": "m.content.strip()",
    "parted at a mark": "m.content.split('</think>')[-1]",
}


def found(loaded, *messages: tuple[str, str], separator=None):
    text, spans = render(loaded, tuple(Message(*message) for message in messages), separator)
    return text, [(text[:start], text[start:end]) for start, end in spans]


@pytest.mark.parametrize("content", TEMPLATES.values(), ids=TEMPLATES)
def test_words_of_the_template_are_told_from_the_messages(templated, content):
    loaded = templated(TURNS.replace("CONTENT", "{{ " + content + " }}"))
    text, parts = found(loaded, ("user", "user"), ("assistant", " assistant\n"), ("user", "user"), ("user", "/"))
    assert [words for _, words in parts] == ["user", "assistant", "user", "/"]
    kept = " assistant\n" if content == "m.content" or "split" in content else "assistant"
    before = ["<user> ", f"<user> user </user>\n<assistant> {kept[: kept.index('a')]}"]
    before.append(f"<user> user </user>\n<assistant> {kept} </assistant>\n<user> ")
    before.append(before[-1] + "user </user>\n<user> ")
    assert [start for start, _ in parts] == before
    assert text == before[-1] + "/ </user>\n<assistant>"


def test_messages_that_the_template_moves_or_repeats_are_found_where_they_are(templated):
    loaded = templated("{{ messages[1].content }} after {{ messages[0].content }}, again {{ messages[1].content }}")
    text, parts = found(loaded, ("system", "after"), ("user", "again"))
    assert parts == [("", "again"), ("again after ", "after"), ("again after after, again ", "again")]
    assert text.startswith("again after after, again again")


def test_parts_between_separators_are_found(templated):
    loaded = templated(TURNS.replace("CONTENT", "{{ m.content.split('<image>') | join('') }}"))
    _, parts = found(loaded, ("user", "user <image> user<image>"), separator="<image>")
    assert parts == [("<user> ", "user"), ("<user> user  ", "user")]


@pytest.mark.parametrize(
    "content",
    ["{{ m.content | upper }}", "{{ m.role }}", "{{ m.content | replace('b', 'user') }}", "{{ m.content[:1] }}"],
)
def test_a_template_that_changes_a_message_is_an_error(templated, content):
    loaded = templated(TURNS.replace("CONTENT", content))
    with pytest.raises(GrainsError, match="the chat template rewrites the user message 'ab'") as caught:
        found(loaded, ("user", "ab"))
    assert "\n" not in str(caught.value)

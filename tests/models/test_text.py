"""Text examples: which tokens are candidates."""

from __future__ import annotations

from grains_eval.models import encode
from grains_eval.types import Message, PreferenceExample

TURNS = "{% for m in messages %}<{{ m.role }}> CONTENT </{{ m.role }}>\n{% endfor %}"


def test_candidates_are_the_message_and_not_the_role_of_the_same_name(templated):
    loaded = templated(TURNS.replace("CONTENT", "{{ m.content }}"))
    given = PreferenceExample("e", "h", (Message("user", "user"),), " yes", " no")
    encoded = encode(loaded, given)
    whole = "".join(encoded.tokens).replace("Ġ", " ").replace("Ċ", "\n")
    marked = "".join("*" * len(t) if c else t for t, c in zip(encoded.tokens, encoded.is_candidate, strict=True))
    assert whole.removeprefix("<s>") == "<user> user </user>\n<assistant>"
    assert marked.removeprefix("<s>") == "<user>Ġ****Ġ</user>Ċ<assistant>"

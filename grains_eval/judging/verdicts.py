"""From a judge's reply to a rating, or to the reason why there is none."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from grains_eval.judging.replies import Reply
from grains_eval.judging.rubrics import Pairwise, VerdictRule

_PREFERENCES = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Verdict:
    """What a reply says.

    Attributes:
        score: The rating; None where there is none, or more than one.
        reason: Why there is none; empty where there is one.
    """

    score: float | None
    reason: str = ""


def read_verdict(reply: Reply, rule: VerdictRule) -> Verdict:
    """The one rating of a reply; the same one twice counts once, two different ones are no verdict."""
    if reply.error:
        return Verdict(None, "refused by the endpoint")
    found = {match.lower() for match in re.findall(rule.pattern, reply.text, re.IGNORECASE)}
    if len(found) != 1:
        cut = reply.finish_reason == "length" and not found
        return Verdict(None, "cut off" if cut else "several ratings" if found else "no rating")
    text = found.pop()
    if rule.values is not None:
        labels = {label.lower(): value for label, value in rule.values.items()}
        return Verdict(labels[text]) if text in labels else Verdict(None, "an unknown label")
    try:
        score = float(text)
    except ValueError:
        return Verdict(None, "no number")
    low, high = (-math.inf if rule.low is None else rule.low), (math.inf if rule.high is None else rule.high)
    return Verdict(score) if low <= score <= high else Verdict(None, "off the scale")


def read_preference(reply: Reply, rule: Pairwise) -> Verdict:
    """1 where the first response is preferred, 0 where the second is, one half for a tie."""
    return read_verdict(reply, VerdictRule(pattern=rule.pattern, values=_PREFERENCES))

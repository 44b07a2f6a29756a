"""What the mock models of the Inspect logs know."""


def knows(model: str, index: int, try_: int = 0) -> bool:
    """Which questions a model answers: the steered one a third more, and each of them not in every epoch."""
    return (index * 7 + try_ * 3) % 12 < (8 if model == "steered" else 4)

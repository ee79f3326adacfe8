"""Golden rows of the release's grader whose verdict is deliberately not ours; docs/grading.md gives the reasons.

The rows stay as the release answers them. Each is listed by its box and its reference, with what we answer: whether the
completion has a readable box, and whether the answer is right.
"""

OURS: dict[tuple[str, str], tuple[bool, bool]] = {
    (r"\boxed{5\text{ cm}}", r"5\text{ m}"): (True, False),
    (r"\boxed{x>3}", r"(3,\infty)"): (True, True),
    (r"\boxed{8.7e8}", r"8.7 \times 10^{8}"): (True, True),
    (r"\boxed{½}", r"\frac{1}{2}"): (True, True),
    (r"\boxed{\sin 30^\circ}", r"\frac12"): (True, True),
    (r"\boxed 7", "7"): (True, True),
    (r"\boxed {7}", "7"): (True, True),
    (r"\fbox{7}", "7"): (True, True),
    (r"\boxed{}", "7"): (False, False),
}


def ours(text: str, gold: object) -> tuple[bool, bool] | None:
    """Our answer to a golden row if it deviates, else None."""
    if len(text) > 100:
        return None
    return next((own for (box, reference), own in OURS.items() if box in text and reference == gold), None)

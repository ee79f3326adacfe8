r"""Formats that an answer can be required to have: thoughts in tags, then the answer in a box or in tags.

Everything here takes time linear in the length of the text.
"""

import re
from typing import Final

__all__ = [
    "PLACES",
    "as_tags",
    "outside_thoughts",
    "tagged_answer",
    "thinks_then_answers",
    "thinks_then_boxes",
    "tighten",
]

PLACES: Final = {"box": "\\boxed{}", "think": "\\boxed{}", "answer": "<answer></answer>"}
"""Where each format of ``reward.format`` wants the answer."""

SYMBOLS = re.compile(r"([<>/])")
THINK, END_OF_THINK = "<think>", "</think>"
ANSWER, END_OF_ANSWER = "<answer>", "</answer>"
TURN = re.compile(r"</think>\s*<answer>")
TAG = re.compile(r"<\s*(/\s*)?think\s*>")
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
FINAL = re.compile(r"\s*final\b")
END_OF_MESSAGE = re.compile(r"<\|(?:end|return|call|start)\|>")


def tighten(text: str) -> str:
    r"""The text without whitespace around ``<``, ``>`` and ``/``, so ``< think >`` counts as a tag.

    Source:
        The Share-GRPO release (EasyR1), which does this before grading.

    Example:
        >>> tighten("< think >a b< / think > c")
        '<think>a b</think>c'
    """
    pieces = SYMBOLS.split(text)
    last = len(pieces) - 1
    for place in range(0, len(pieces), 2):
        piece = pieces[place].lstrip() if place else pieces[place]
        pieces[place] = piece.rstrip() if place < last else piece
    return "".join(pieces)


def as_tags(text: str) -> str:
    """The text with gpt-oss's channels as tags: all but the final one become thoughts; other text is unchanged.

    Source:
        OpenAI's harmony response format.

    Example:
        >>> as_tags("<|channel|>analysis<|message|>1+1<|end|><|start|>assistant<|channel|>final<|message|>2")
        '<think>1+1</think>2'
    """
    before, *channels = text.split(CHANNEL)
    if not channels:
        return text
    pieces = [END_OF_MESSAGE.split(before)[0]]
    for number, channel in enumerate(channels, 1):
        name, _, body = channel.partition(MESSAGE)
        end = END_OF_MESSAGE.search(body)
        content = TAG.sub("", body[: end.start()] if end else body)
        if FINAL.match(name):
            pieces.append(content)
        else:
            pieces.append(THINK + content + (END_OF_THINK if end or number < len(channels) else ""))
    return "".join(pieces)


def outside_thoughts(text: str) -> str:
    """The text without thoughts, finished or not; a first ``</think>`` without its ``<think>`` ends thoughts too.

    Example:
        >>> outside_thoughts("<think>1+1</think>It is 2. <think>Or"), outside_thoughts("1+1</think>2")
        ('It is 2. ', '2')
    """
    tags = list(TAG.finditer(text))
    inside = bool(tags) and tags[0][1] is not None
    pieces, start = [], 0
    for tag in tags:
        closes = tag[1] is not None
        if closes is not inside:
            continue  # a tag in the wrong place changes nothing
        if not inside:
            pieces.append(text[start : tag.start()])
        inside, start = not inside, tag.end()
    return "".join(pieces) + ("" if inside else text[start:])


def thinks_then_boxes(text: str) -> bool:
    r"""Whether a text is ``<think>...</think>`` followed by a ``\boxed{...}``, with anything before and after the box.

    Source:
        The Share-GRPO release, ``examples/score_function/math.py``: same as a full match of its pattern.

    Example:
        >>> thinks_then_boxes(r"<think>1+1</think> It is \boxed{2}."), thinks_then_boxes(r"It is \boxed{2}.")
        (True, False)
    """
    end = text.find(END_OF_THINK, len(THINK)) if text.startswith(THINK) else -1
    box = text.find(r"\boxed{", end) if end >= 0 else -1
    return box >= 0 and text.find("}", box) >= 0


def thinks_then_answers(text: str) -> bool:
    """Whether a text is ``<think>...</think><answer>...</answer>`` and nothing else.

    Source:
        The Share-GRPO release, ``examples/score_function/r1v.py``: same as a full match of its pattern.

    Example:
        >>> thinks_then_answers("<think>1+1</think> <answer>2</answer>"), thinks_then_answers("<answer>2</answer>")
        (True, False)
    """
    turn = TURN.search(text, len(THINK)) if text.startswith(THINK) else None
    return turn is not None and text.endswith(END_OF_ANSWER) and len(text) - len(END_OF_ANSWER) >= turn.end()


def tagged_answer(text: str) -> str | None:
    """The content of the first ``<answer>...</answer>``, or None.

    Source:
        The Share-GRPO release, ``examples/score_function/r1v.py``; without the tags it grades the whole text instead.

    Example:
        >>> tagged_answer("<think>1+1</think><answer> 2 </answer>"), tagged_answer("2") is None
        ('2', True)
    """
    start = text.find(ANSWER)
    end = text.find(END_OF_ANSWER, start) if start >= 0 else -1
    return text[start + len(ANSWER) : end].strip() if end >= 0 else None

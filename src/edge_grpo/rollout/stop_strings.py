"""Stop strings: finds the token that completes one in the decoded text of a completion, however it is tokenised."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["StopStrings"]

_SLACK = 8  # tokens decoded before the string's own: a tokenizer may treat the first decoded ones differently


class StopStrings:
    """Recognises completions whose text contains one of some strings.

    A string can begin and end inside tokens. Only the tokens in ``candidates`` can complete one, so only rows that
    just drew such a token are decoded, and of those only the last ``window`` tokens.

    Args:
        tokenizer: the model's.
        strings: the stop strings; none = nothing is ever found.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str] = ()) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        self.window = max((len(text.encode()) for text in self.strings), default=0) + _SLACK
        self.candidates = self._candidates() if self.strings else ()
        self._may_end = frozenset(self.candidates)

    def _candidates(self) -> tuple[int, ...]:
        tokens = sorted(self.tokenizer.get_vocab().values())
        texts = self._decoded([[token] for token in tokens])
        return tuple(token for token, text in zip(tokens, texts, strict=True) if self._may_complete(text))

    def _may_complete(self, token: str) -> bool:
        """Whether some text followed by the token can contain a string that the text alone does not.

        Part of a character decodes to U+FFFD, and some tokenizers drop a leading space: both count as possible.
        """
        return any(
            _overlaps(string, text) or ("\ufffd" in text and not string.isascii())
            for string in self.strings
            for text in (token, f" {token}")
        )

    def ends_at(self, tokens: Sequence[int]) -> int:
        """How many tokens of a whole completion there are up to the one that completes a string; 0 if none does."""
        places = [place for place, token in enumerate(tokens, 1) if token in self._may_end]
        if not places:
            return 0
        found = self.completed([tokens[max(0, place - self.window) : place] for place in places])
        return next((place for place, hit in zip(places, found, strict=True) if hit), 0)

    def completed(self, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each completion, given by its last ``window`` tokens, contains a string."""
        texts = self._decoded([list(row) for row in rows])
        return [any(string in text for string in self.strings) for text in texts]

    def _decoded(self, rows: list[list[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return texts


def _overlaps(string: str, text: str) -> bool:
    """Whether a text contains a string or begins with some end of it."""
    if string[-1] not in text:
        return False
    return string in text or any(string.endswith(text[:length]) for length in range(1, len(text) + 1))

"""The rollouts that a page carries, and where their tokens are in the text."""

import base64
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from made_runs import answer, group, make_run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edge_grpo.report.browser import Carried, carry
from edge_grpo.report.run import read_run
from edge_grpo.report.tokens import marks, tokenizer_of


def unpacked(carried: Carried) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(carried.packed)))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A token per byte, and a stop token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({one: number for number, one in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    return made


def span(tokenizer: Tokenizer, text: str, origin: str, entropies: list[float] | None = None) -> dict[str, Any]:
    ids = tokenizer.encode(text).ids
    known = [] if entropies is None else (entropies * len(ids))[: len(ids)]
    return {"origin": origin, "token_ids": ids, "logprobs": [], "entropies": known, "version": None}


def test_tokens_are_found_in_the_text(tokenizer: Tokenizer) -> None:
    spans = [span(tokenizer, "a🙂", "sampled", [0.0, 3.0]), span(tokenizer, "b", "injected")]
    spans.append(span(tokenizer, "c<|end|>", "continued", [0.3]))
    found = marks({"completion": "<think>\na🙂bc", "spans": spans}, tokenizer)
    assert found["opened"] == 8, "what the prompt opened is no token of the completion"
    assert found["pieces"] == [1, 0, 0, 0, 2, 1, 1, 0], (
        "an emoji of four bytes is two UTF-16 units; a stop token is none"
    )
    assert found["origins"] == [["sampled", 5], ["injected", 1], ["continued", 2]]
    assert found["shades"] == "09090-44"


def test_special_tokens_count_where_the_text_has_them(tokenizer: Tokenizer) -> None:
    spans = [span(tokenizer, "a<|end|>b<|end|>", "sampled", [0.0])]
    assert marks({"completion": "ab", "spans": spans}, tokenizer)["pieces"] == [1, 0, 1, 0]
    assert marks({"completion": "a<|end|>b", "spans": spans}, tokenizer)["pieces"] == [1, 7, 1, 0]


def test_text_that_its_tokens_do_not_make_up_is_shown_as_it_is(tokenizer: Tokenizer) -> None:
    row = {"completion": "other", "spans": [span(tokenizer, "text", "sampled", [0.1])]}
    assert marks(row, tokenizer) == {}
    assert marks({**row, "completion": "text"}, None) == {}
    assert marks({"completion": "", "spans": []}, tokenizer) == {}
    assert (
        marks({"completion": "x", "spans": [{**span(tokenizer, "x", "sampled"), "token_ids": [9999]}]}, tokenizer) == {}
    )


def test_a_page_carries_groups_as_sampled_with_the_columns_of_the_data(tmp_path: Path) -> None:
    rows = group(1, 0, [answer(1, before=0, strategy="answer", completion_before="7", note="n")])
    rows += group(1, 0, [answer(0, advantage=None, entropy=float("nan"))], source=1)  # a copy
    path = make_run(tmp_path / "run", {1: rows}, data=lambda row: {"level": 3, "score": float("inf")})
    found = unpacked(carry(read_run(path), max_bytes=10**6))
    ((own,),) = [step["groups"] for step in found["steps"]]
    assert (own["problem"], own["before"], own["after"], own["data"]) == (
        *("p0", "unscorable", "useful"),
        {"level": 3, "score": None},
    )
    (row,) = own["rows"]
    assert (row["text"], row["before"], row["verdict_before"], row["reward_before"], row["note"]) == (
        *("it is 1", "7", "wrong", 0.0, "n"),
    )


def test_what_does_not_fit_is_left_out_evenly_and_counted(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefghij ", k=200)) for _ in range(400)]
    steps = {
        step: [
            row
            for number in range(4)
            for row in group(step, number, [answer(0, completion=texts[8 * step + 2 * number + one]) for one in (0, 1)])
        ]
        for step in range(1, 41)
    }
    run = read_run(make_run(tmp_path / "run", steps))
    whole = carry(run, max_bytes=10**6)
    assert (len(whole.steps), whole.num_completions, whole.num_left_out, whole.num_plain) == (40, 320, 0, 320)
    half = carry(run, max_bytes=len(whole.packed) // 2)
    assert len(half.packed) <= len(whole.packed) // 2
    assert 10 <= len(half.steps) <= 22
    assert (half.steps[0], half.steps[-1]) == (1, 40)
    assert max(b - a for a, b in zip(half.steps, half.steps[1:], strict=False)) <= 4
    assert half.num_completions + half.num_left_out == 320
    assert [step["step"] for step in unpacked(half)["steps"]] == list(half.steps)
    tiny = carry(run, max_bytes=900)
    assert (len(tiny.steps), tiny.num_completions + tiny.num_left_out) == (1, 320)
    assert 2 <= tiny.num_completions < 8


def test_the_tokenizer_is_that_of_the_run_else_that_of_its_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0)])}, "model.path=bundled")
    bundled = tokenizer_of(read_run(path))
    assert bundled is not None
    (path / "final").mkdir()
    tokenizer.save(str(path / "final" / "tokenizer.json"))
    own = tokenizer_of(read_run(path))
    assert own is not None
    assert own.get_vocab_size() == 257 != bundled.get_vocab_size()
    other = make_run(tmp_path / "other", {1: group(1, 0, [answer(0)])}, f"model.path={tmp_path / 'gone'}")
    assert tokenizer_of(read_run(other)) is None


def test_a_single_group_that_is_too_large_is_cut_and_says_so(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=20_000)) for _ in range(8)]
    rows = group(1, 0, [answer(0, completion=text) for text in texts])
    run = read_run(make_run(tmp_path / "run", {1: rows}))
    small = carry(run, max_bytes=20_000)
    assert len(small.packed) <= 20_000
    assert (small.num_completions, small.num_cut, small.num_plain) == (8, 8, 0)
    (own,) = unpacked(small)["steps"][0]["groups"]
    assert all(row["cut"] + len(row["text"]) == 20_000 and text.startswith(row["text"])
               for row, text in zip(own["rows"], texts, strict=True))  # fmt: skip

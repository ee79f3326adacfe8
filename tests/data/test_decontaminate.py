"""Test texts that occur in the training data."""

import json
import os
from pathlib import Path

import pytest

from edge_grpo.data.decontaminate import Overlap, overlaps, word_grams

DATA = Path(os.environ.get("EDGE_GRPO_DATA", Path(__file__).resolve().parents[2].parent / "shared/data"))
WORDS = [f"w{i}" for i in range(40)]


def test_a_text_shorter_than_a_gram_is_searched_whole_inside_longer_ones() -> None:
    assert word_grams("") == frozenset()
    assert word_grams("What is $1+1$?") == {("what", "is", "1", "1")}
    long = "Let us begin. What is 1+1? Think step by step and put the final answer into a box."
    assert overlaps(["What is 1+1?"], ["what is 1 1 now", long]) == [Overlap(0, 0, 1.0)]
    assert overlaps(["What is 1+1?"], ["What is 1+2?", long]) == [Overlap(0, 1, 1.0)]
    assert overlaps(["Find x."], ["Find x.", long]) == [Overlap(0, 0, 1.0)]
    assert overlaps(["Find x."], ["Find x and y, please."]) == []  # two words are too few for a search


def test_the_share_counts_test_grams_in_one_training_text() -> None:
    test = " ".join(WORDS[:25])  # 13 grams of 13 words
    first, second = " ".join(WORDS[:16]), " ".join(WORDS[10:25])  # 4 and 3 of them
    (found,) = overlaps([test], [second, first])
    assert (found.train, found.share) == (1, 4 / 13)
    assert overlaps([test], [second]) == []  # 23 % is not over 30 %
    assert overlaps([test], [first], min_share=4 / 13) == []


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="set EDGE_GRPO_DATA to a folder with the benchmarks")
def test_known_overlaps_in_the_papers_data_are_found() -> None:
    def texts(name: str) -> list[str]:
        return [json.loads(line)["problem"] for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]

    train = texts("deepscaler_hard_1k")
    found = {
        name: {one.test: round(one.share, 2) for one in overlaps(texts(name), train)}
        for name in ("aime24", "amc23", "math500", "minerva", "olympiad_bench")
    }
    assert found["aime24"] == found["minerva"] == {}
    assert found["amc23"] == {29: 0.44}
    assert found["math500"] == {80: 1.0, 110: 0.7, 285: 1.0, 412: 1.0, 475: 0.45}
    assert set(found["olympiad_bench"]) == {13, 25, 53, 62, 83, 85}

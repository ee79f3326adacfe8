import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from data.test_prompts import Characters, text

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Pair, Segment, Verdict
from edge_grpo.config.tree import parse_tree
from edge_grpo.data.pairs import EncodedPair, encode_pair, encode_pairs, load_pairs, pair_group
from edge_grpo.data.settings import DataSettings, PairFieldNames

PAIR = Pair("p:1", "1+1?", "2", "3")
STOP = 3


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


USER, GOOD, BAD = message("user", "1+1?"), message("assistant", "2"), message("assistant", "3")


def write(tmp_path: Path, rows: Sequence[object], name: str = "p.jsonl") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / name)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1+1?", "chosen": "2", "rejected": "3"},
        {"prompt": "1+1?", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 9.0},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "1+1?", "chosen": [GOOD], "rejected": "3"},
    ],
    ids=["texts", "conversations and a prompt", "conversations alone", "messages", "a mixture"],
)
def test_every_form_of_a_row_is_read(tmp_path: Path, row: dict[str, object]) -> None:
    assert load_pairs(write(tmp_path, [row])).pairs == (PAIR,)


def test_earlier_turns_and_a_system_message_are_read(tmp_path: Path) -> None:
    turns = [message("system", "Short."), message("user", "Hi"), message("assistant", "Hello"), USER]
    row = {"prompt": "Hi", "chosen": [*turns, GOOD], "rejected": [*turns, BAD], "id": 5}
    assert load_pairs(write(tmp_path, [row])).pairs == (Pair("5", "1+1?", "2", "3", ("Hi", "Hello"), "Short."),)


@pytest.mark.parametrize("kind", ["json", "parquet", "saved"])
def test_other_sources_read_the_same(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt": None, "chosen": [USER, GOOD], "rejected": [USER, BAD]}]
    path = str(tmp_path / f"p.{kind}")
    if kind == "json":
        (tmp_path / "p.json").write_text(json.dumps(rows), encoding="utf-8")
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        import datasets

        datasets.DatasetDict({"train_prefs": datasets.Dataset.from_list(rows)}).save_to_disk(path)
    assert load_pairs(path, split="train_prefs").pairs == (PAIR,)


def test_fields_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "1+1?", "yes": "2", "no": "3", "uid": "p:1"}])
    names = PairFieldNames(prompt="question", chosen="yes", rejected="no", id="uid")
    assert load_pairs(path, names).pairs == (PAIR,)


GIVEN = {"prompt": "?", "chosen": "a", "rejected": "b"}
WRONG = {
    "not JSON": ("{'chosen'", "column 2: not JSON"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, "field 'prompt': missing; the row has 'chosen', 'rejected'"),
    "no answer": ({"prompt": "?", "chosen": "a"}, "field 'rejected': missing"),
    "null answer": ({**GIVEN, "chosen": None}, r"field 'chosen': nothing \(null\), wanted text or a list of messages"),
    "empty answer": ({**GIVEN, "rejected": " \n"}, "field 'rejected': empty text"),
    "empty prompt": ({**GIVEN, "prompt": ""}, "field 'prompt': empty text"),
    "numeric answer": ({**GIVEN, "chosen": 3}, "field 'chosen': int 3"),
    "lone surrogate": (r'{"prompt": "?", "chosen": "\ud83d", "rejected": "b"}', "field 'chosen': lone surrogate"),
    "equal answers": ({**GIVEN, "rejected": "a "}, "fields 'chosen' and 'rejected': the same answer twice"),
    "no messages": ({**GIVEN, "chosen": []}, "field 'chosen': an empty list, wanted messages"),
    "not a message": ({**GIVEN, "chosen": ["a"]}, "field 'chosen', message 1: text, wanted an object"),
    "no role": ({**GIVEN, "chosen": [{"content": "a"}]}, "field 'chosen', message 1, role: nothing"),
    "no content": (
        {**GIVEN, "chosen": [USER, {"role": "assistant"}]},
        r"field 'chosen', message 2, 'content': nothing \(null\), wanted text",
    ),
    "user last": ({**GIVEN, "chosen": [USER]}, "field 'chosen': the last message has role 'user'"),
    "different prompts": (
        {"chosen": [USER, GOOD], "rejected": [message("user", "2+1?"), BAD]},
        "fields 'chosen' and 'rejected': answers to different conversations",
    ),
    "no question": (
        {"prompt": [message("system", "x")], "chosen": "a", "rejected": "b"},
        "field 'prompt': the prompt's messages have roles system; wanted alternating user and assistant",
    ),
    "two questions": (
        {"prompt": [USER, USER], "chosen": "a", "rejected": "b"},
        "field 'prompt': the prompt's messages have roles user, user",
    ),
    "a tool message": (
        {"prompt": [USER, message("tool", "x"), USER], "chosen": "a", "rejected": "b"},
        "field 'prompt': the prompt's messages have roles user, tool, user",
    ),
    "id of the wrong type": ({**GIVEN, "id": 1.5}, "field 'id': float 1.5"),
    "duplicate id": ({**GIVEN, "id": "a"}, "field 'id': 'a' is also the id of row 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_row_is_reported_or_skipped(tmp_path: Path, case: str) -> None:
    row, wanted = WRONG[case]
    path = write(tmp_path, [{**GIVEN, "id": "a"}, "", row])
    with pytest.raises(DataError, match=rf"p\.jsonl, row 3, {wanted}.*\(data\.pair_fields\.\*\).*data\.bad_rows=skip"):
        load_pairs(path)
    loaded = load_pairs(path, bad_rows="skip")
    assert [pair.id for pair in loaded.pairs] == ["a"]
    assert loaded.num_skipped == 1


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pairs to read: it has no rows"):
        load_pairs(write(tmp_path, [""]))


def test_the_settings_choose_pairs_and_fields() -> None:
    data = parse_tree({"data": {"pairs": "p.jsonl", "pair_fields": {"chosen": "yes"}}}).data
    assert (data.pairs, data.pairs_split, data.pair_fields) == ("p.jsonl", "train", PairFieldNames(chosen="yes"))


# --- tokens -----------------------------------------------------------------------------------------------------------


def encoded(pair: Pair = PAIR, *, max_new_tokens: int = 10, **data: Any) -> EncodedPair | None:
    return encode_pair(Characters(), pair, DataSettings(**data), stop_id=STOP, max_new_tokens=max_new_tokens)


def test_prompts_follow_the_template_and_answers_end_with_a_stop_token() -> None:
    one = encoded()
    assert text(one.prompt_ids) == "[user]1+1?;[assistant]"
    assert one.chosen_ids == (ord("2"), STOP)
    assert one.rejected_ids == (ord("3"), STOP)
    assert not one.truncated
    assert text(encoded(template="plain").prompt_ids) == "\x011+1?\n"


def test_earlier_turns_are_part_of_the_prompt() -> None:
    pair = Pair("p", "1+1?", "2", "3", ("Hi", "Hello"), "Short.")
    wanted = "[system]Short.;[user]Hi;[assistant]Hello;[user]1+1?;[assistant]"
    assert text(encoded(pair).prompt_ids) == wanted
    assert text(encoded(pair, system_prompt="Long.").prompt_ids) == wanted


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_prompt_tokens": 5}, r"its prompt has 22 tokens, data\.max_prompt_tokens is 5; raise it"),
        ({"max_new_tokens": 3}, r"its rejected answer has 5 tokens, rollout\.max_new_tokens is 3; raise it"),
    ],
)
def test_over_long_pairs_follow_the_rule(limit: dict[str, int], reason: str) -> None:
    pair = Pair("p", "1+1?", "2", "3...")
    with pytest.raises(DataError, match=rf"pair 'p': {reason}, or set data\.over_long=skip or truncate"):
        encoded(pair, **limit)
    assert encoded(pair, over_long="skip", **limit) is None
    cut = encoded(pair, over_long="truncate", **limit)
    assert cut.truncated
    if "max_prompt_tokens" in limit:
        assert text(cut.prompt_ids) == "tant]"
    else:
        assert text(cut.rejected_ids) == "3.."
        assert cut.chosen_ids == (ord("2"), STOP)


def test_answers_made_equal_by_truncation_are_skipped() -> None:
    assert encoded(Pair("p", "?", "1.5", "1.7"), max_new_tokens=2, over_long="truncate") is None
    assert encoded(Pair("p", "?", "1.5", "1.7"), max_new_tokens=3, over_long="truncate") is not None


def test_skipped_and_truncated_pairs_are_counted() -> None:
    pairs = [PAIR, Pair("p:2", "1+1?", "2", "3" * 20)]
    settings = {"stop_id": STOP, "max_new_tokens": 10}
    kept = encode_pairs(Characters(), pairs, DataSettings(over_long="skip"), **settings)
    assert ([one.pair for one in kept.pairs], kept.num_skipped, kept.num_truncated) == ([PAIR], 1, 0)
    cut = encode_pairs(Characters(), pairs, DataSettings(over_long="truncate"), **settings)
    assert (len(cut.pairs), cut.num_skipped, cut.num_truncated) == (2, 0, 1)
    with pytest.raises(DataError, match="all 1 pairs exceed"):
        encode_pairs(Characters(), pairs[1:], DataSettings(over_long="skip"), **settings)


def test_a_pair_becomes_a_group_of_two_rows() -> None:
    group = pair_group(encoded(max_new_tokens=10), stop_id=STOP)
    assert [row.grade.verdict for row in group.rows] == [Verdict.CORRECT, Verdict.WRONG]
    assert [row.grade.reward for row in group.rows] == [1.0, 0.0]
    assert [text(row.rollout.completion_ids) for row in group.rows] == ["2\x03", "3\x03"]
    assert all(row.rollout.finished for row in group.rows)
    assert {segment for row in group.rows for segment in row.rollout.segments} == {Segment.INJECTED}
    assert (group.problem.id, group.problem.prompt, group.problem.answer) == ("p:1", "1+1?", "2")
    cut = encoded(Pair("p", "?", "2", "3" * 20), over_long="truncate")
    assert [row.rollout.finished for row in pair_group(cut, stop_id=STOP).rows] == [True, False]

"""A prompt is text or a conversation: read alike for problems and pairs, and rendered by every template."""

import json
from pathlib import Path

import pytest
from data.test_prompts import Bare, Characters, text

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.data.messages import Conversation, read_prompt
from edge_grpo.data.problems import load_problems, split
from edge_grpo.data.prompts import encode_problems
from edge_grpo.data.readers import BadRowError
from edge_grpo.data.settings import DataSettings, FieldNames

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "1+1?"}
ANSWER = {"role": "assistant", "content": "2"}
AGAIN = {"role": "user", "content": "And 2+3?"}
WHOLE = Conversation("And 2+3?", ("1+1?", "2"), "Be brief.", as_messages=True)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("1+1?", Conversation("1+1?")),
        ([USER], Conversation("1+1?", as_messages=True)),
        ([SYSTEM, USER, ANSWER, AGAIN], WHOLE),
        (json.dumps([SYSTEM, USER, ANSWER, AGAIN]), WHOLE),
        ({"role": ["system", "user"], "content": ["S", "1+1?"]}, Conversation("1+1?", (), "S", as_messages=True)),
        (
            [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]}],
            Conversation("1+1?", as_messages=True),
        ),
        ("[1, 2] has how many items?", Conversation("[1, 2] has how many items?")),
        ("[1, 2]", Conversation("[1, 2]")),
        ("[]", Conversation("[]")),
    ],
    ids=["text", "one turn", "four turns", "JSON text", "columns", "parts", "brackets", "a list as text", "no items"],
)
def test_every_form_of_a_prompt_is_read(value: object, wanted: Conversation) -> None:
    assert read_prompt(value, "p") == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "an empty list, wanted messages"),
        ([USER, ANSWER], r"roles user, assistant; wanted .* last \(an answer begun for the model is not supported\)"),
        ([USER, AGAIN], "roles user, user; wanted alternating"),
        ([SYSTEM], "roles system; wanted"),
        ([USER, SYSTEM], "roles user, system; wanted"),
        (["1+1?"], "message 1: text, wanted an object"),
        ([{"from": "human", "value": "?"}], r"message 1, role: nothing \(null\), wanted text"),
        ([{"role": "user", "content": " "}], "message 1, 'content': empty text, wanted text"),
        (
            [{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}],
            "message 1, 'content': contains a part of type 'video', wanted text and images",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], r"nothing \(null\), wanted text in every part"),
        (7, "int 7, wanted text or a list of messages"),
    ],
)
def test_an_unusable_prompt_is_explained(value: object, message: str) -> None:
    with pytest.raises(BadRowError, match=message):
        read_prompt(value, "p")


def write(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_row_with_messages_becomes_a_problem(tmp_path: Path) -> None:
    row = {"problem": [SYSTEM, USER, ANSWER, AGAIN], "answer": 5, "variants": ["And 3+2?"], "level": 1}
    (problem,) = load_problems(write(tmp_path, row)).problems
    assert problem == Problem(
        "rows:1", "And 2+3?", ("5",), "", ("And 3+2?",), {"level": 1}, ("1+1?", "2"), "Be brief.", as_messages=True
    )
    assert problem.columns == {"answer": 5, "variants": ["And 3+2?"], "level": 1}
    assert problem.text == "1+1?\n\n2\n\nAnd 2+3?"


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_structs_read_like_objects(tmp_path: Path, kind: str) -> None:
    """verl's own rows, as pyarrow and the package datasets return them."""
    row = {
        "data_source": "made-up",
        "prompt": [USER],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 7, "answer": "1+1 = 2"},
    }
    path = str(tmp_path / f"rows.{kind}")
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        import datasets

        datasets.DatasetDict({"train": datasets.Dataset.from_list([row])}).save_to_disk(path)
    names = FieldNames(
        prompt="prompt", answer="reward_model.ground_truth", solution="extra_info.answer", id="extra_info.index"
    )
    (problem,) = load_problems(path, names).problems
    assert (problem.id, problem.prompt, problem.answers, problem.solution) == ("7", "1+1?", ("2",), "1+1 = 2")
    assert problem.meta == {name: row[name] for name in ("data_source", "reward_model", "extra_info")}


TALK = Problem("t", "2+3?", ("5",), variants=("3+2?",), earlier=("1+1?", "2"), system="Brief.", as_messages=True)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("chat", "[system]Brief.;[user]1+1?;[assistant]2;[user]2+3?;[assistant]"),
        ("plain", "\x01Brief.\n1+1?\n2\n2+3?\n"),
        (
            "qwen-math",
            "<|im_start|>system\nBrief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
            "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_every_template_renders_a_conversation(template: str, wanted: str) -> None:
    """A row's own system message replaces the one of the settings."""
    tokenizer = Characters() if template == "chat" else Bare()
    data = DataSettings(template=template, system_prompt="Long.")
    (prompt,) = encode_problems(tokenizer, [TALK], data, variants=2).prompts
    assert text(prompt.prompt_ids) == wanted
    assert [text(ids) for ids in prompt.variant_ids] == [wanted.replace("2+3?", "3+2?")]


def test_the_same_last_turn_in_different_conversations_is_another_question() -> None:
    def talk(number: int) -> Problem:
        return Problem(f"{number}", "Sure?", ("2",), earlier=(f"1+{number}?", f"{1 + number}"))

    train, held_out = split([talk(number) for number in range(6)] * 2, 4, seed=0)
    assert (len(train), len(held_out)) == (8, 4)
    assert {problem.id for problem in train}.isdisjoint(problem.id for problem in held_out)


def test_a_bad_conversation_names_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, {"problem": [USER], "answer": 2}, {"problem": [USER, ANSWER], "answer": 2})
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2, field 'problem': the prompt's messages have roles user,"):
        load_problems(path)
    assert load_problems(path, bad_rows="skip").num_skipped == 1

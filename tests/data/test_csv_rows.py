"""CSV files: a header, rows by line, bad ones named or counted, an empty cell is no value."""

from pathlib import Path

import pytest

from edge_grpo.base.errors import DataError
from edge_grpo.data.problems import load_problems


def write(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "rows.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def test_rows_are_problems_and_other_columns_travel_along(tmp_path: Path) -> None:
    text = '\ufeffproblem,answer,solution,level\r\n1+1?,2,,3\r\n"a, ""b""\nc?",142,so 142,\r\n\r\n5?,5.5,,1\r\n'
    one, two, three = load_problems(write(tmp_path, text)).problems
    assert (one.id, one.prompt, one.answers, one.solution, one.meta) == ("rows:2", "1+1?", ("2",), "", {"level": "3"})
    assert (two.id, two.prompt, two.answer, two.solution) == ("rows:3", 'a, "b"\nc?', "142", "so 142")
    assert two.meta == {"level": None}
    assert three.id == "rows:6"


def test_bad_rows_are_named_or_counted(tmp_path: Path) -> None:
    rows = [b"problem,answer", b"a,1,2", b"b", b'"c"x,1', b"\xe9,1", b"d,", b"e,1"]
    path = write(tmp_path, b"\n".join(rows))
    loaded = load_problems(path, bad_rows="skip")
    assert ([one.prompt for one in loaded.problems], loaded.num_skipped) == (["e"], 5)
    for count, message in [
        (2, r"row 2, 3 cells, but the header names 2 columns; quote cells with commas"),
        (4, r"row 2, not CSV: ',' expected after '\"'"),
        (5, r"row 2, field 'problem': not UTF-8 text"),
        (6, r"row 2, field 'answer': nothing \(null\)"),
    ]:
        with pytest.raises(DataError, match=message):
            load_problems(write(tmp_path, b"\n".join([rows[0], rows[count - 1]])))


def test_a_file_without_rows_or_with_an_odd_header_is_refused(tmp_path: Path) -> None:
    for text in ("", "problem,answer\n"):
        with pytest.raises(DataError, match="no problems to read: it has no rows"):
            load_problems(write(tmp_path, text))
    with pytest.raises(DataError, match="the header names column 'a' more than once"):
        load_problems(write(tmp_path, "a,b,a\n1,2,3\n"))
    with pytest.raises(DataError, match="the row has 'problem;answer'"):
        load_problems(write(tmp_path, "problem;answer\n1;2\n"))


def test_an_unclosed_quote_does_not_swallow_the_file_in_silence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 3, not CSV: unexpected end of data"):
        load_problems(write(tmp_path, 'problem,answer\na,1\n"b,2\nc,3\n'))


def test_a_long_cell_is_no_error(tmp_path: Path) -> None:
    (one,) = load_problems(write(tmp_path, "problem,answer,solution\na,1," + "x" * 200_000)).problems
    assert len(one.solution) == 200_000

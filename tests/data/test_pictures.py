import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Picture
from edge_grpo.data.bad_rows import BadRowError
from edge_grpo.data.pairs import load_pairs
from edge_grpo.data.pictures import ImageSettings, UnusableImageError, gradient, open_picture, read_pictures
from edge_grpo.data.problems import load_problems, split
from edge_grpo.data.settings import FieldNames

RED = (200, 10, 10)


def png(width: int = 6, height: int = 4, mode: str = "RGB", color: Any = RED, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height), color).save(stream, kind)
    return stream.getvalue()


def read(value: object, folder: Path = Path(), **images: int) -> tuple[Picture, ...]:
    return read_pictures(value, "images", "problem 'p'", folder=folder, images=ImageSettings(**images))


def test_an_image_is_a_path_bytes_a_data_url_or_an_object(tmp_path: Path) -> None:
    content = png()
    (tmp_path / "a.png").write_bytes(content)
    forms = [
        "a.png",
        str(tmp_path / "a.png"),
        content,
        {"bytes": content, "path": "elsewhere.png"},
        {"bytes": None, "path": "a.png"},
        {"url": "a.png"},
        f"data:image/png;base64,{base64.b64encode(content).decode()}",
    ]
    found = [read(form, tmp_path)[0] for form in forms]
    assert {each.size for each in found} == {(6, 4)}
    assert len({each.digest for each in found}) == 1
    for each in found:
        assert np.asarray(open_picture(each)).tolist() == [[[*RED]] * 6] * 4
    assert read(forms[:2], tmp_path) == (found[0], found[1])
    assert read(None) == read("") == read([]) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("none.png", r"field 'images': .*none\.png: no such file"),
        (["a.png", "none.png"], r"field 'images', image 2: .*none\.png: no such file"),
        ("https://x.org/a.png", r"'https://x.org/a.png' is a URL; images are not downloaded: save it"),
        ("text.png", r"text\.png is not an image \(or not one of PNG, JPEG"),
        ("figure.eps", r"figure\.eps is not an image"),
        (b"GIF89a", "it is not an image"),
        (7, "a value of type int, wanted an image: a path, its bytes"),
        ({"name": "a.png"}, "a value of type dict, wanted an image"),
        ([""], "an empty text, wanted an image"),
        ("data:image/png,abc", "a 'data:' URL without valid base64"),
        (".", "no such file"),
    ],
)
def test_what_is_no_image_is_rejected_by_name(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "figure.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(BadRowError, match=message):
        read(value, tmp_path)


def test_files_that_are_too_large_are_never_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRowError, match=r"it has 3000 x 2000 pixels, more than"):
        read(png(3000, 2000), max_file_pixels=5_999_999)
    with pytest.raises(BadRowError, match=r"bytes, more than data\.images\.max_file_bytes = 10"):
        read(png(), max_file_bytes=10)
    (tmp_path / "big.png").write_bytes(png())
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(BadRowError, match=r"big\.png has \d+ bytes"):
        read("big.png", tmp_path, max_file_bytes=10)


def test_a_decompression_bomb_is_found_from_its_header() -> None:
    bomb = png(1, 1)
    header = bomb.index(b"IHDR") + 4
    huge = (60_000).to_bytes(4, "big") * 2
    content = bytearray(bomb)
    content[header : header + 8] = huge
    import zlib

    content[header + 13 : header + 17] = zlib.crc32(bytes(content[header - 4 : header + 13])).to_bytes(4, "big")
    with pytest.raises(BadRowError, match=r"exceeds limit|60000 x 60000 pixels"):
        read(bytes(content))


def test_a_damaged_or_changed_file_is_named_when_it_is_opened(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    (cut,) = read(stream.getvalue()[:2000])
    with pytest.raises(UnusableImageError, match=r"problem 'p', image 1 is damaged \("):
        open_picture(cut)
    (tmp_path / "a.png").write_bytes(png())
    (kept,) = read("a.png", tmp_path)
    (tmp_path / "a.png").write_bytes(png(color=(0, 0, 0)))
    with pytest.raises(UnusableImageError, match=r"a\.png\) is gone or has changed since it was read"):
        open_picture(kept)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UnusableImageError, match="is gone or has changed"):
        open_picture(kept)


def test_images_are_shown_upright_on_white_in_rgb() -> None:
    (clear,) = read(png(2, 2, "RGBA", (9, 9, 9, 0)))
    assert np.asarray(open_picture(clear)).min() == 255
    (grey,) = read(png(2, 2, "L", 77))
    assert np.asarray(open_picture(grey)).tolist() == [[[77] * 3] * 2] * 2
    (deep,) = read(png(2, 2, "I;16", 65535))
    assert np.asarray(open_picture(deep)).min() == 255
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.new("RGB", (8, 2)).save(stream, "JPEG", exif=exif)
    (turned,) = read(stream.getvalue())
    assert open_picture(turned).size == (2, 8)


@pytest.mark.parametrize(
    ("size", "limits", "shown"),
    [
        ((100, 50), {}, (100, 50)),
        ((100, 50), {"max_pixels": 1250}, (50, 25)),
        ((100, 50), {"max_pixels": 1000}, (44, 22)),
        ((10, 10), {"min_pixels": 400}, (20, 20)),
        ((2000, 1), {"max_pixels": 100}, (447, 1)),
        ((100, 50), {"max_pixels": 0}, (100, 50)),
    ],
)
def test_images_are_scaled_between_the_limits(
    size: tuple[int, int], limits: dict[str, int], shown: tuple[int, int]
) -> None:
    (picture,) = read(png(*size), **limits)
    assert open_picture(picture).size == shown


def test_the_limits_must_leave_something() -> None:
    with pytest.raises(ValueError, match="min_pixels: got 10, more than max_pixels = 5"):
        ImageSettings(min_pixels=10, max_pixels=5)


ROWS: Callable[[Path], list[dict[str, Any]]] = lambda folder: [  # noqa: E731
    {"problem": "<image>\nHow many?", "answer": "1", "images": ["a.png"]},
    {"problem": "<image> and <image>: the same?", "answer": "yes", "images": ["a.png", str(folder / "b.png")]},
    {"problem": "1+1?", "answer": "2", "images": None},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(png(color=(number, 0, 0)))
    return tmp_path


def test_rows_with_images_are_read_from_jsonl_and_parquet(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS(folder))))
    found = load_problems(str(folder / "rows.jsonl")).problems
    assert [len(each.images) for each in found] == [1, 2, 0]
    assert "images" not in found[0].meta
    assert "images" not in found[0].columns
    stored = [
        row
        | {"images": [{"bytes": (folder / Path(name).name).read_bytes(), "path": None} for name in row["images"] or []]}
        for row in ROWS(folder)
    ]
    pq.write_table(pa.Table.from_pylist(stored), folder / "rows.parquet")
    assert [each.images for each in load_problems(str(folder / "rows.parquet")).problems] == [
        each.images for each in found
    ]


def test_hub_datasets_with_image_features_are_not_decoded(folder: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
        }
    )
    rows = [row | {"images": [str(folder / Path(name).name) for name in row["images"] or []]} for row in ROWS(folder)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder / "saved")
    found = load_problems(str(folder / "saved")).problems
    assert [len(each.images) for each in found] == [1, 2, 0]
    assert np.asarray(open_picture(found[1].images[1])).max() == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"problem": "<image> What?", "images": []},
            r"<image> stands in the text once, and field 'images' has 0 images. data\.fields\.images names their",
        ),
        (
            {"problem": "What?", "images": ["a.png"]},
            "text nowhere, and field 'images' has 1 image. Write <image> where",
        ),
        ({"problem": "<image> What?", "picture": "a.png"}, r"0 images\. Set data\.fields\.images=picture"),
        (
            {"problem": "What?", "image": "a.png"},
            "'image' has images, which would be left out. Set data.fields.images=",
        ),
        ({"problem": "What?", "IMG": [{"bytes": None, "path": "a.jpg"}]}, r"Set data\.fields\.images=IMG and write"),
        (
            {"problem": "<image> What?", "images": ["a.png"], "variants": ["<image>?", "What?"]},
            "'variants', text 2: <image> .*nowhere",
        ),
        (
            {"problem": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], "images": "a.png"},
            "the messages in 'problem' have images of their own; drop one",
        ),
    ],
)
def test_every_image_has_a_placeholder_and_every_placeholder_an_image(
    folder: Path, row: dict[str, Any], message: str
) -> None:
    (folder / "rows.jsonl").write_text(json.dumps({"answer": "1", **row}))
    with pytest.raises(DataError, match=message):
        load_problems(str(folder / "rows.jsonl"))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "image", "image": "a.png"},
        {"type": "image", "path": "a.png"},
        {"type": "image_url", "image_url": {"url": "a.png"}},
    ],
)
def test_messages_hold_images_or_name_their_places(folder: Path, part: dict[str, Any]) -> None:
    content = [{"type": "text", "text": "See "}, part, {"type": "text", "text": ": how many?"}]
    row = {"problem": [{"role": "user", "content": content}], "answer": "1"}
    row |= {"images": ["a.png"]} if part == {"type": "image"} else {}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    (problem,) = load_problems(str(folder / "rows.jsonl")).problems
    assert problem.prompt == "See <image>: how many?"
    assert [each.size for each in problem.images] == [(6, 4)]


def test_other_column_names_are_given_and_checked(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(json.dumps({"problem": "<image>?", "answer": "1", "figure": "a.png"}))
    (problem,) = load_problems(str(folder / "rows.jsonl"), FieldNames(images="figure")).problems
    assert len(problem.images) == 1
    with pytest.raises(DataError, match=r"0 images"):
        load_problems(str(folder / "rows.jsonl"), FieldNames(images="figures"))


def test_the_same_question_about_other_pictures_is_another_question(folder: Path) -> None:
    rows = [{"problem": "<image>?", "answer": "1", "images": [name]} for name in ("a.png", "b.png", "a.png")]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, held_out = split(load_problems(str(folder / "rows.jsonl")).problems, 1, seed=0)
    assert {len(train), len(held_out)} == {1, 2}


def test_a_gradient_is_different_everywhere() -> None:
    pixels = np.asarray(open_picture(gradient(8, 4)))
    assert pixels.shape == (4, 8, 3)
    assert len({tuple(each) for each in pixels.reshape(-1, 3)}) == 32


@pytest.mark.parametrize("written", ['["<image>Two?", "<image>Three?"]', "['<image>Two?', '<image>Three?']"])
def test_variants_may_be_a_list_written_as_text(folder: Path, written: str) -> None:
    row = {"problem": "<image>One?", "answer": "1", "images": "a.png", "variants": written}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    (problem,) = load_problems(str(folder / "rows.jsonl")).problems
    assert problem.variants == ("<image>Two?", "<image>Three?")


def test_text_that_only_looks_like_a_list_is_rejected_and_never_run(folder: Path) -> None:
    row = {"problem": "<image>One?", "answer": "1", "images": "a.png", "variants": "[__import__('os').getcwd()]"}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="field 'variants': text, wanted a list of texts"):
        load_problems(str(folder / "rows.jsonl"))


def test_a_list_of_images_written_as_text_is_read(folder: Path) -> None:
    (folder / "rows.csv").write_text('problem,answer,images\n<image><image> Same?,no,"[""a.png"", ""b.png""]"\n')
    (found,) = load_problems(str(folder / "rows.csv")).problems
    assert [Path(picture.path).name for picture in found.images] == ["a.png", "b.png"]


def test_stored_pairs_have_no_images(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text(json.dumps({"prompt": "<image> What?", "chosen": "a", "rejected": "b"}))
    with pytest.raises(DataError, match="field 'prompt': has an image; stored pairs are text only"):
        load_pairs(str(folder / "pairs.jsonl"))

"""Images of problems: found in data rows, checked before anything is decoded, and opened as a model is shown them."""

import base64
import binascii
import hashlib
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Picture
from edge_grpo.base.settings import settings
from edge_grpo.base.text import counted, listed_in_text
from edge_grpo.data.bad_rows import BadRowError
from edge_grpo.data.transforms import transformed

__all__ = [
    "PLACEHOLDER",
    "ImageSettings",
    "UnusableImageError",
    "check_placeholders",
    "data_url",
    "gradient",
    "in_url",
    "looks_like_image",
    "open_picture",
    "picture_of",
    "pillow",
    "portable",
    "read_pictures",
    "with_sentence",
]

PLACEHOLDER: Final = "<image>"
"""Where an image stands in the text of a prompt."""

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # no others are tried: some run programs
_ENDINGS: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_WANTED: Final = "wanted an image: a path, its bytes, an object with one of them, or a list of these"
_LEAD: Final = re.compile(rf"(?:{PLACEHOLDER}\s*)+")
_DATA_URL: Final = "data:"


@settings
class ImageSettings:
    """How images are read.

    ``min_pixels`` and ``max_pixels``: before the model's processor is given an image of fewer or more pixels (width x
    height), the image is scaled to that number, keeping its shape; 0 = no such limit. Files of more than
    ``max_file_bytes``, or with more than ``max_file_pixels``, are bad rows: they are never decoded.
    """

    min_pixels: int = Field(default=0, ge=0)
    max_pixels: int = Field(default=1_048_576, ge=0)
    max_file_bytes: int = Field(default=50_000_000, ge=1)
    max_file_pixels: int = Field(default=100_000_000, ge=1)

    def __post_init__(self) -> None:
        """Reject limits that exclude each other."""
        if 0 < self.max_pixels < self.min_pixels:
            raise ValueError(f"min_pixels: got {self.min_pixels}, more than max_pixels = {self.max_pixels}; lower it")


class UnusableImageError(DataError):
    """An image that looked sound when it was found cannot be decoded, is no longer there, or suits no model."""


def read_pictures(value: object, name: str, where: str, *, folder: Path, images: ImageSettings) -> tuple[Picture, ...]:
    """The images in field ``name`` of a row; none if it is null or empty.

    An image is a path (relative to ``folder``), its encoded bytes, a ``data:`` URL, or an object with ``path`` or
    ``bytes``, as the package datasets stores images. Its bytes are read and only its header is decoded.

    Args:
        value: one image, or a list of them.
        name: the field, for messages.
        where: the row's name.
        folder: where the data file is.
        images: limits and scale.
    Raises:
        BadRowError: a file is missing, too large, or not an image.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str) and value.strip().startswith("["):  # CSV has a list as text
        value = listed_in_text(value)
    listed = value if isinstance(value, list | tuple) else [value]
    found = []
    for number, one in enumerate(listed, 1):
        field = f"field '{name}'" + (f", image {number}" if len(listed) > 1 else "")
        try:
            found.append(_picture(one, f"{where}, image {number}", folder, images))
        except BadRowError as error:
            raise BadRowError(f"{field}: {error}", error.remedy) from None
    return tuple(found)


def check_placeholders(texts: Sequence[str], pictures: Sequence[Picture], name: str) -> None:
    """Make sure that there is a placeholder in the prompt for every image, and an image for every placeholder.

    Args:
        texts: the turns of the conversation.
        pictures: the row's.
        name: the field of the images, for messages.
    Raises:
        BadRowError: there are more of one than of the other.
    """
    places = sum(text.count(PLACEHOLDER) for text in texts)
    if places != len(pictures):
        remedy = f"Write {PLACEHOLDER} where each image stands" if pictures else "data.fields.images names their column"
        counts = f"{_times(places)}, and field '{name}' has {counted(len(pictures), 'image')}"
        raise BadRowError(f"{PLACEHOLDER} stands in the text {counts}", remedy)


def _times(number: int) -> str:
    return ("nowhere", "once")[number] if number < 2 else f"{number} times"


def _named(picture: Picture) -> str:
    return f"{picture.name} ({picture.path})" if picture.path else picture.name


def with_sentence(prompt: str, sentence: str) -> str:
    r"""A question with a sentence before it, after the images it begins with.

    Example:
        >>> with_sentence("<image>\nHow many?", "It is upside down.")
        '<image>\nIt is upside down.\nHow many?'
    """
    lead = _LEAD.match(prompt)
    start = lead.end() if lead else 0
    return f"{prompt[:start]}{sentence}\n{prompt[start:]}"


def open_picture(picture: Picture) -> Any:
    """The image in RGB as a model is shown it: upright, on white, scaled, then transformed.

    Args:
        picture: the record.
    Returns:
        a ``PIL.Image.Image``.
    Raises:
        UnusableImageError: the file has changed or is damaged.
    """
    pil = pillow()
    content = picture.content or _read(Path(picture.path))
    if content is None or _digest(content) != picture.digest:
        raise UnusableImageError(f"{_named(picture)} is gone or has changed since it was read; restore it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            opened = pil.Image.open(io.BytesIO(content), formats=_FORMATS)
            image = _on_white(pil, pil.ImageOps.exif_transpose(opened))
    except Exception as error:  # noqa: BLE001 - decoders raise errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnusableImageError(f"{_named(picture)} is damaged ({reason}); replace it") from None
    size = _scaled(*image.size, least=picture.min_pixels, most=picture.max_pixels)
    if size != image.size:
        image = image.resize(size)
    if not picture.transform:
        return image
    return pil.Image.fromarray(transformed(np.asarray(image), picture.transform, seed=picture.seed))


def portable(picture: Picture) -> str:
    """A picture as a row of JSON can hold it: its absolute path, or its encoded bytes in a ``data:`` URL."""
    return picture.path or in_url(picture.content)


def in_url(content: bytes) -> str:
    """Bytes in a ``data:`` URL."""
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"


def looks_like_image(value: object) -> bool:
    """Whether a value that no setting names holds an image, or a list of them: bytes, a file name, a ``data:`` URL."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(looks_like_image, value))
    if isinstance(value, Mapping):
        return any(looks_like_image(value.get(key)) for key in ("bytes", "path"))
    if isinstance(value, str):
        return value.startswith("data:image/") or value.lower().endswith(_ENDINGS)
    return isinstance(value, bytes | bytearray)


def data_url(picture: Picture, *, most_pixels: int = 0) -> str:
    """A picture as a model is shown it, as a PNG in a ``data:`` URL.

    Args:
        picture: to be opened.
        most_pixels: a larger one is scaled down to about this number of pixels; 0 = none is.
    Raises:
        UnusableImageError: the file has changed or is damaged.
    """
    image = open_picture(picture)
    if 0 < most_pixels < image.width * image.height:
        image = image.resize(_scaled(*image.size, least=0, most=most_pixels))
    return f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"


def gradient(width: int, height: int) -> Picture:
    """A picture that gets brighter to the right, redder towards its lower edge, and is different everywhere."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([down, across, (across + down) / 2], axis=-1).astype(np.uint8)
    return picture_of(pillow().Image.fromarray(pixels), "a gradient")


def picture_of(image: Any, name: str) -> Picture:
    """An image in memory (``PIL.Image.Image``) as a picture.

    Args:
        image: the image.
        name: what it is called in messages.
    """
    content = _png(image)
    return Picture(name, _digest(content), image.size, content=content)


def _png(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _picture(value: object, name: str, folder: Path, images: ImageSettings) -> Picture:
    path, content = "", b""
    if isinstance(value, str) and value:
        if value.startswith(_DATA_URL):
            content = _of_data_url(value)
        else:
            path = _located(value, folder)
    elif isinstance(value, bytes | bytearray):
        content = bytes(value)
    elif isinstance(value, Mapping):
        given = (value.get(key) for key in ("bytes", "path", "url"))
        if own := next((each for each in given if isinstance(each, bytes | bytearray | str) and each), None):
            return _picture(own, name, folder, images)
    if not (path or content):
        kind = "an empty text" if value == "" else f"a value of type {type(value).__name__}"
        raise BadRowError(f"{kind}, {_WANTED}")
    _check_file(Path(path), images) if path else _check_length(len(content), "it", images)
    held = _read(Path(path)) if path else content
    if held is None:
        raise BadRowError(f"{path}: cannot be read")
    size = _size(held, path or "it", images)
    return Picture(name, _digest(held), size, path, content, images.min_pixels, images.max_pixels)


def _located(path: str, folder: Path) -> str:
    if "://" in path:
        raise BadRowError(f"{path[:80]!r} is a URL; images are not downloaded: save it, and name the file")
    try:
        return str((folder / Path(path).expanduser()).absolute())
    except RuntimeError as error:  # a user that does not exist
        raise BadRowError(f"{path!r}: {error}") from None


def _check_file(path: Path, images: ImageSettings) -> None:
    try:
        if not path.is_file():
            raise BadRowError(f"{path}: no such file")
        length = path.stat().st_size
    except (OSError, ValueError) as error:
        raise BadRowError(f"{path}: cannot be read: {error}") from None
    _check_length(length, str(path), images)


def _check_length(length: int, what: str, images: ImageSettings) -> None:
    if length > images.max_file_bytes:
        raise BadRowError(
            f"{what} has {length:,} bytes, more than data.images.max_file_bytes = {images.max_file_bytes:,}",
            "Raise it, or shrink the image",
        )


def _size(content: bytes, what: str, images: ImageSettings) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    pil = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pil.Image.open(io.BytesIO(content), formats=_FORMATS) as header:
                width, height = header.size
    except pil.Image.DecompressionBombError as error:
        raise BadRowError(f"{what}: {error}", "Shrink the image") from None
    except Exception:  # noqa: BLE001 - decoders raise errors of many kinds
        raise BadRowError(f"{what} is not an image (or not one of {', '.join(_FORMATS)})") from None
    if width * height > images.max_file_pixels:
        raise BadRowError(
            f"{what} has {width} x {height} pixels, more than data.images.max_file_pixels = {images.max_file_pixels:,}",
            "Raise it, or shrink the image",
        )
    if not width * height:
        raise BadRowError(f"{what} has no pixels ({width} x {height})")
    return width, height


def _of_data_url(url: str) -> bytes:
    header, comma, body = url.partition(",")
    try:
        if not comma or not header.endswith(";base64"):
            raise ValueError("not base64")
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error):
        raise BadRowError("a 'data:' URL without valid base64") from None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _scaled(width: int, height: int, *, least: int, most: int) -> tuple[int, int]:
    """The sides of an image with at least and at most so many pixels, of the same shape; 0 = no such limit.

    Source: as released with R1-ShareVL: both sides times the root of the ratio, rounded down.
    """
    count = width * height
    wanted = most if most and count > most else least if count < least else count
    if wanted == count:
        return width, height
    factor = math.sqrt(wanted / count)
    return max(1, int(width * factor)), max(1, int(height * factor))


def _on_white(pil: Any, image: Any) -> Any:
    """The image in RGB; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        upper = image.convert("RGBA")
        lower = pil.Image.new("RGBA", upper.size, "white")
        return pil.Image.alpha_composite(lower, upper).convert("RGB")
    if image.mode.startswith("I;16"):  # converting would cut what is above 255
        return pil.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel, of which nothing says what is white; save it with 8 or 16")
    return image.convert("RGB")


def pillow() -> Any:
    """Pillow, with only the modules used here.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import PIL.Image  # noqa: PLC0415 - needed for images only
        import PIL.ImageDraw  # noqa: PLC0415
        import PIL.ImageFont  # noqa: PLC0415
        import PIL.ImageOps  # noqa: PLC0415
    except ImportError:
        raise ConfigError("images need the package Pillow: pip install 'edge-grpo[images]'") from None
    return PIL

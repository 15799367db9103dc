"""JSON documents: hundreds of megabytes of them quickly, odd numbers exactly, and damaged ones with the line of the damage."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from detclean.boxes import Floats, Ints
from detclean.errors import DatasetError
from detclean.formats.plainfile import read_plain

NOT_AS_EXPECTED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what msgspec raises for content it cannot read as a type
PLAIN_IDS = {int, str}
# two of the first kind, the one after the other, are a whole one; the second kind is no UTF-8, and Python's reader takes it
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\xed[\xa0-\xbf][\x80-\xbf]")
Encoded: TypeAlias = bytes | msgspec.Raw  # a value as it stands in a file


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector walks through all that was built so far again and again, which doubles the time to read a large file."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def decode_as(content: Encoded, layout: Any) -> Any:
    """A document as a type; fields that the type does not have are passed over. Raises NOT_AS_EXPECTED."""
    with no_collection():
        return msgspec.json.decode(content, type=layout)


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises DatasetError where it cannot be read."""
    try:
        return read_plain(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); name an existing JSON file") from None


def load_json(path: Path) -> Any:
    """A JSON file's content; NaN and numbers of more than 64 bits are kept. Raises DatasetError with the line where it is damaged."""
    content = read_bytes(path)
    try:
        return decode_as(content, Any)
    except NOT_AS_EXPECTED:
        pass  # the slower reader accepts NaN, and knows the line of what it does not accept
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno}: is not valid JSON ({error.msg}, column {error.colno}); write the file again") from None
    except (UnicodeDecodeError, RecursionError):
        raise DatasetError(f"{path}: is not valid JSON in UTF-8; write the file again") from None
    except ValueError as error:  # Python reads no integer of more than 4,300 digits
        raise DatasetError(f"{path}: holds a number that is none ({error}); correct it") from None
    for found in HALF_CHARACTER.finditer(content):
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            line = content.count(b"\n", 0, found.start()) + 1
            raise DatasetError(
                f"{path}:{line}: holds half of a character ({found[0].decode('utf-8', 'backslashreplace')}); write the text again"
            ) from None
        break
    return document


def split_document(path: Path, lists: Sequence[str]) -> tuple[dict[str, Encoded], dict[str, list[Encoded]]]:
    """A JSON object as its values, and each of the named lists as its records, all as they are encoded in the file.

    Raises DatasetError where the file is damaged. The lists have to be there.
    """
    try:
        parts: dict[str, Encoded] = decode_as(read_bytes(path), dict[str, msgspec.Raw])
        return parts, {name: decode_as(parts[name], list[msgspec.Raw]) for name in lists}
    except NOT_AS_EXPECTED:  # NaN
        document = load_json(path)
        records: dict[str, list[Encoded]] = {name: [encode(record) for record in document[name]] for name in lists}
        return {name: b"" if name in lists else encode(value) for name, value in document.items()}, records


def encode(value: Any) -> bytes:
    """A value as JSON, with NaN and numbers of any size as Python writes them."""
    return json.dumps(value).encode()


def decode(content: Encoded) -> Any:
    return json.loads(bytes(content))


def join_list(records: Iterable[Encoded]) -> bytes:
    return b"[" + b",\n".join(records) + b"]"


def join_object(parts: Mapping[str, Encoded]) -> bytes:
    return b"{" + b",\n".join(b"".join((encode(name), b": ", value)) for name, value in parts.items()) + b"}"


def is_id(value: object) -> bool:
    """Whether a value can be an id: a number or a text."""
    return isinstance(value, int | str | float) and not isinstance(value, bool)


def look_up(position_of: Mapping[Any, int], ids: Sequence[Any]) -> Ints:
    """The position of each id (n,), -1 where it is unknown or can be no id."""
    if set(map(type, ids)) <= PLAIN_IDS:
        return np.fromiter(map(position_of.get, ids, repeat(-1)), np.int64, len(ids))
    return np.array([position_of.get(value, -1) if is_id(value) else -1 for value in ids], dtype=np.int64)


def is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold, be it NaN; JSON has integers of any size."""
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def is_row(value: object, width: int) -> bool:
    """Whether a value is a list of so many numbers."""
    return isinstance(value, list) and len(value) == width and all(map(is_number, value))


def as_numbers(rows: Sequence[Any], width: int) -> Floats | None:
    """Lists of numbers as (n, width); None where any of them is something else."""
    if set(map(type, rows)) <= {list} and set(map(len, rows)) <= {width} and set(map(type, chain.from_iterable(rows))) <= {int, float}:
        try:
            return np.fromiter(chain.from_iterable(rows), np.float64, width * len(rows)).reshape(-1, width)
        except OverflowError:  # an integer of more than 308 digits
            return None
    return None

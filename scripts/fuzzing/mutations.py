"""How a good file is made a bad one: damage to its bytes, to its numbers and texts, and to its structure."""

from __future__ import annotations

import json
import random
import re
from typing import Any

NAN, INFINITY = float("nan"), float("inf")
NUMBERS: tuple[Any, ...] = (
    *(NAN, INFINITY, -INFINITY, 1e308, -1e308, 1e-320, 1.7e38, 1e18, -1, -0.0, 0, 1, 2, 0.5, 1e-9, 5, 255, 256, 65_536, 10**6),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400),
)
TEXTS = (
    *(
        "",
        " ",
        "a b",
        "a[1]",
        "a*b?",
        "it's",
        'a"b',
        "a#b",
        "# a",
        "a\nb",
        "a\r\nb",
        "a\tb",
        "a,b",
        "a;b",
        "é",
        "e\u0301",
        "😀",
        "\u202eabc",
    ),
    *("\u0000", "\ud800", "\ufeff", "\u2028", "=1+1", "<script>alert(1)</script>", "&amp;", "{{ 7*7 }}", "%s%n"),
    *("${HOME}", "`id`", "~", "~root"),
    *("..", ".", "/", "../x.png", "../../../x.png", "../../../../../../x.png", "/x.png", "a/../b", "a//b.png", "C:\\x.png", "a\\b.png"),
    *("nan", "NaN", "Infinity", "1e999", "1,5", "-1", "0", "١٢", "²", "true", "null", "none", "None", "yes", "2026-01-01"),
    *("x" * 260, "é" * 200, "x" * 5000, "a/" * 900 + "b.png"),
)
TOKENS = (
    *(b"nan", b"NaN", b"inf", b"-Infinity", b"1e308", b"-1e308", b"1e-320", b"-1", b"0", b"1,5"),
    *(b"9" * 25, b"9" * 5000, b"0x10", b"1_0", b"--1", b"", b"x"),
)
JUNK = (
    *(b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b",", b";", b'"', b"'", b"{", b"}", b"[", b"]", b"<", b">"),
    *(b"&", b"#", b":", b"\\", b"\xe2\x80\xae", b"\xed\xa0\x80", "😀".encode(), b"- ", b"*a", b"&a "),
    b"!!python/object/apply:os.getcwd []",
)
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
DEEP, GIANT = 100_000, 300_000

Random = random.Random


def chance(rng: Random, one_in: int) -> bool:
    return rng.randrange(one_in) == 0


# Structure


def odd_value(rng: Random) -> Any:
    """Something that should not stand where it will stand."""
    kind = rng.randrange(12)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 8:
        return rng.choice(TEXTS)
    simple: tuple[Any, ...] = (
        None,
        True,
        False,
        [],
        {},
        [[]],
        {"": None},
        [None],
        [1, 2, 3, 4],
        [NAN] * 4,
        ["1", "2", "3", "4"],
        {"id": 1},
    )
    return rng.choice(simple)


def list_places(document: Any, limit: int = 4000) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a document of dicts and lists."""
    places: list[tuple[Any, Any]] = []
    stack = [document]
    while stack and len(places) < limit:
        node = stack.pop()
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        for key in keys:
            places.append((node, key))
            stack.append(node[key])
    return places


def mutate_structure(rng: Random, document: Any) -> Any:
    """One change to a document of dicts, lists and values, which may be altered; the document, or what stands in its place."""
    places = list_places(document)
    if not places or chance(rng, 60):
        return odd_value(rng)
    node, key = rng.choice(places)
    act = rng.randrange(10)
    if act < 4:
        node[key] = odd_value(rng)
    elif act == 4:
        del node[key]
    elif act == 5:  # the same again
        if isinstance(node, list):
            node.insert(rng.randrange(len(node) + 1), node[key])
        else:
            node[f"{key}2"] = node[key]
    elif act == 6:  # another place's value
        other, another = rng.choice(places)
        node[key] = json.loads(json.dumps(other[another])) if another in (other if isinstance(other, dict) else range(len(other))) else None
    elif act == 7:
        node[key] = retype(rng, node[key])
    elif act == 8:
        if isinstance(node, dict):
            name = str(rng.choice(TEXTS))
            node[name] = node.pop(key)
        else:
            rng.shuffle(node)
    else:
        value = node[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            node[key] = rng.choice(
                (-value, value * 10**6 if abs(value) < 1e300 else value, value + 0.5 if abs(value) < 1e300 else value, str(value))
            )
        elif isinstance(value, list):
            node[key] = rng.choice((value[::-1], value * 2, value[:-1], [value]))
        elif isinstance(value, str):
            node[key] = rng.choice((value + rng.choice(TEXTS), rng.choice(TEXTS) + value, value.upper(), value[: len(value) // 2]))
        else:
            node[key] = {"a": value}
    return document


def retype(rng: Random, value: Any) -> Any:
    if isinstance(value, dict):
        return rng.choice((list(value.values()), list(value), str(value)[:300], None, list(value.items())))
    if isinstance(value, list):
        return rng.choice((dict(enumerate(map(str, value[:100]))), str(value)[:300], value[0] if value else None, tuple(value)))
    if isinstance(value, str):
        return rng.choice(([value], {"value": value}, len(value), None))
    return rng.choice(
        (str(value), [value], {"value": value}, float(value) if isinstance(value, int) and abs(value) < 1e300 else value, bool(value))
    )


def write_json(rng: Random, document: Any) -> bytes:
    """A document as JSON in one of many spellings; some hold a key twice."""
    text = json.dumps(document, ensure_ascii=chance(rng, 2), indent=rng.choice((None, None, 1)), default=str)
    if chance(rng, 8) and "{" in text:
        at = rng.choice([i for i, sign in enumerate(text) if sign == "{"][:2000])
        keys = re.findall(r'"(\w+)": ', text[at : at + 400]) or ["id"]
        text = f'{text[: at + 1]}"{rng.choice(keys)}": {json.dumps(odd_value(rng))}, {text[at + 1 :]}'.replace(", }", "}")
    return text.encode("utf-8", "surrogatepass")


def make_monster(rng: Random, key: str) -> bytes:
    """JSON that is deep, or large."""
    bracket = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = bracket[0] * DEEP + b"1" + bracket[1] * DEEP
    giant = b"[" + b",".join([rng.choice((b"1", b"{}", b"[]", b'"x"', b"null", b'{"id":1,"bbox":[1,2,3,4]}'))] * GIANT) + b"]"
    name = json.dumps(key).encode()
    return rng.choice(
        (
            deep,
            b"{" + name + b":" + deep + b"}",
            giant,
            b"{" + name + b":" + giant + b"}",
            b'{"' + b"x" * 3_000_000 + b'":1}',
            b"[1" + b"0" * 1_000_000 + b"]",
        )
    )


# Bytes


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """One change to a file's bytes."""
    size = len(content)
    at = rng.randrange(size + 1)
    until = min(size, at + rng.choice((1, 2, 8, 64, 512)))
    act = rng.randrange(18)
    if act == 0 and size:
        return content[: at % size] + bytes([content[at % size] ^ (1 << rng.randrange(8))]) + content[at % size + 1 :]
    if act == 1:
        return content[:at]
    if act == 2:
        return content[:at] + rng.choice(JUNK) + content[at:]
    if act == 3:
        return content[:until] + content[at:until] * rng.choice((1, 2, 50)) + content[until:]
    if act == 4:
        return content[:at] + content[until:]
    if act in (5, 6, 7):
        return replace_number(rng, content)
    if act == 8:
        return b"\xef\xbb\xbf" + content
    if act == 9:
        return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b" ", b"\x0b", b"\xe2\x80\xa8")))
    if act == 10:
        return content.replace(b" ", rng.choice((b"\t", b",", b";", b"\xc2\xa0", b"  ", b"")))
    if act == 11:
        return content.replace(b".", b",")
    if act == 12:
        return content.decode("latin-1").encode(rng.choice(("utf-16", "utf-16-le", "utf-32")), "replace")
    if act == 13:
        return content[:at] + rng.randbytes(rng.choice((1, 4, 32))) + content[until:]
    if act == 14:
        return rng.choice((b"", b"\x00" * 64, b"\n", b" ", content + content, content[::-1], rng.randbytes(200)))
    if act in (15, 16):
        return swap_numbers(rng, content)
    return content[:at] + rng.choice(TEXTS).encode("utf-8", "surrogatepass") + content[at:]


def replace_number(rng: Random, content: bytes) -> bytes:
    """One number in a text becomes another, or something that is none."""
    found = [match.span() for match in NUMBER.finditer(content[:200_000])]
    if not found:
        return content + rng.choice(TOKENS)
    start, stop = rng.choice(found)
    return content[:start] + rng.choice(TOKENS) + content[stop:]


def swap_numbers(rng: Random, content: bytes) -> bytes:
    """Two numbers that stand near each other change places: the left side behind the right one, the id in the place of a coordinate."""
    found = [match.span() for match in NUMBER.finditer(content[:200_000])]
    if len(found) < 3:
        return content
    first = rng.randrange(len(found) - 2)
    (a, b), (c, d) = found[first], found[first + rng.choice((1, 2))]
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]

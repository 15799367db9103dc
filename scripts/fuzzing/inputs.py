"""Where a case lies, and how its files come to be damaged, by their kind: JSON, YAML, XML, pictures."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fuzzing import mutations as mutate
from fuzzing.mutations import Random
from fuzzing.pictures import pick_picture


@dataclass(frozen=True)
class Place:
    """case: the input of this case, which nothing may change. work: where is written. template: good inputs, made once."""

    case: Path
    work: Path
    template: Path


def change(rng: Random, content: bytes, most: int = 3) -> bytes:
    for _ in range(rng.randrange(most) + 1):
        content = mutate.mutate_bytes(rng, content)
    return content


def change_json(rng: Random, document: Any, key: str) -> bytes:
    """A document with a few changes to its structure, its bytes, or both."""
    if mutate.chance(rng, 80):
        return mutate.make_monster(rng, key)
    act = rng.randrange(10)
    if act < 7:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            document = mutate.mutate_structure(rng, document)
    content = mutate.write_json(rng, document)
    return change(rng, content, 2) if act >= 6 else content


def put_pictures(rng: Random, folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        ending, content = pick_picture(rng, plain=not mutate.chance(rng, 12))
        path = folder / f"p{i}{ending}"
        path.write_bytes(content)
        paths.append(path)
    return paths


def make_yaml(rng: Random, document: Any) -> bytes:
    """YAML with changes; some of it is deep, some refers to itself or swells."""
    if mutate.chance(rng, 40):
        key = rng.choice(list(document))
        bomb = "".join(
            f"{'abcdefghi'[i]}: &{'abcdefghi'[i]} [{', '.join(['*' + 'abcdefghi'[i - 1]] * 9) if i else '1, 2, 3'}]\n" for i in range(9)
        )
        deep = f"{key}: {'[' * 3000}{']' * 3000}\n"
        loop = f"{key}: &x [*x, 1]\n"
        maps = f"{key}: &x {{0: *x}}\n"
        rest = yaml.safe_dump({name: value for name, value in document.items() if name != key})
        swollen = bomb + f"{key}: *i\n"
        return (
            rest + rng.choice((deep, loop, maps, swollen, f"{key}: {'9' * 5000}\n", f"{key}: 0x{'f' * 5000}\n", f"{key}: {'1:' * 900}1\n"))
        ).encode()
    act = rng.randrange(3)
    if act:
        document = mutate.mutate_structure(rng, document)
    try:
        content = yaml.safe_dump(document, allow_unicode=mutate.chance(rng, 2), sort_keys=False).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:  # a text that YAML has no way to write
        content = json.dumps(document, default=str).encode("utf-8", "surrogatepass")
    return content if act == 1 else change(rng, content, 2)


def change_xml(rng: Random, text: bytes) -> bytes:
    if mutate.chance(rng, 25):
        swell = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 10}">' for i in range(9))
        deep, many = b"<a>" * 50_000 + b"</a>" * 50_000, b"<a/>" * 100_000
        entity = b'<!DOCTYPE a [<!ENTITY e0 SYSTEM "file:///etc/passwd">]>'
        added = rng.choice(
            (
                b"<!DOCTYPE a [" + swell.encode() + b"]>",
                entity,
                b'<?xml version="1.0" encoding="zip"?>',
                b'<?xml version="1.0" encoding="utf-7"?>',
            )
        )
        if mutate.chance(rng, 2):
            return added + (text.replace(b"cat", b"&e8;").replace(b"1<", b"&e0;<"))
        return text.replace(b"</annotation", rng.choice((deep, many)) + b"</annotation")
    if mutate.chance(rng, 3):
        tags = ["annotation", "object", "bndbox", "name", "xmin", "size", "width", "filename", "image", "box", "annotations"]
        old, new = rng.sample(tags, 2)
        other = rng.choice((new, f"{old} a='1'", f"x:{old}", old.upper()))
        return text.replace(f"{old}>".encode(), f"{other}>".encode(), rng.randrange(1, 5))
    if mutate.chance(rng, 4):
        return text.replace(
            rng.choice((b"cat", b".png", b"p0", b"32", b"2<", b"\t", b"label=")), rng.choice(mutate.TEXTS).encode("utf-8", "surrogatepass")
        )
    return change(rng, text)


def copy_plain(source: str, target: str) -> str:
    """For shutil.copytree: pipes and the like are not copied."""
    return str(shutil.copyfile(source, target)) if os.path.isfile(source) else target

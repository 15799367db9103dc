"""YAML that a person wrote: deep, endless and swelling documents are refused before anything walks through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

LONGEST_NUMBER = 400  # digits; Python writes none of more than 4,300
MOST_VALUES = 200_000  # with every alias counted as what it stands for: nine lines of aliases can stand for gigabytes


def read_yaml_text(
    text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader, look: Callable[[yaml.Node], None] | None = None
) -> tuple[Any, yaml.Node | None]:
    """The values of a YAML text, and its nodes. Raises yaml.YAMLError, also for what PyYAML itself dies of.

    look: is shown the nodes before they become values, which brings merged keys in among them.
    """
    reader = loader(text)
    try:
        root = reader.get_single_node()
        if root is None:
            return None, None
        _count_values(root, {}, set())
        if look is not None:
            look(root)
        return reader.construct_document(root), root
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
    ) as error:  # such as a date that is none
        raise yaml.YAMLError(f"it holds a value that is none ({' '.join(str(error).split())[:100]})") from None


def _count_values(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """How many values a node stands for. Raises YAMLError where it holds itself, or too many."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} holds a number of {len(node.value):,} digits")
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} holds half of a character; write the text again") from None
        return 1
    if id(node) in above:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1} holds itself, by an alias")
    if id(node) not in known:
        above.add(id(node))
        below = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_count_values(part, known, above) for part in below)
        above.discard(id(node))
    if known[id(node)] > MOST_VALUES:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1} stands for more than {MOST_VALUES:,} values; write fewer, or fewer aliases")
    return known[id(node)]

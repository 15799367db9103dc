"""The configuration: one YAML file and `key=value` overrides, checked before anything else happens."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from detclean.config.sections import SECTIONS, Train
from detclean.config.sections import Benchmark as Benchmark
from detclean.config.sections import Config as Config
from detclean.errors import ConfigError

MAX_CONFIG_BYTES = 1_000_000  # nobody writes a configuration of this size by hand; a COCO file often is larger
OWN_TRAIN_ARGUMENTS = ("data", "model", "project", "name", "save_dir", "resume", "val", "mode", "task", "exist_ok", "split")
EXISTING_PATHS = ("data", "images", "predictions", "answers")
# text, whatever stands there: name=2026
TEXT_KEYS = ("name", "runs", "split", "model", "folds.group_by", "executor.address", *EXISTING_PATHS)

COMMAND_LINE = "command line"  # the place of what stands in no file

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it here: 1e-3 is a number, 2026-01-31 is a name."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


class _Source:
    """Where each value stands: which came from the command line, and the lines of the others."""

    def __init__(self, path: Path, root: yaml.Node | None, overridden: set[tuple[str, ...]]) -> None:
        self.path, self.root, self.overridden = path, root, overridden

    def place(self, keys: Sequence[str | int]) -> str:
        """`configs/yolo.yaml:7`, `command line`, or the file alone for what stands nowhere."""
        if any(tuple(keys[: len(taken)]) == taken for taken in self.overridden):
            return COMMAND_LINE
        node, line = self.root, None
        for key in keys:
            children = node.value if isinstance(node, yaml.MappingNode) else []
            below = next(((name, value) for name, value in children if name.value == str(key)), None)
            if below is None:
                break
            line, node = below[0].start_mark.line + 1, below[1]
        return str(self.path) if line is None else f"{self.path}:{line}"


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with `key=value` overrides, paths found and everything checked.

    Raises ConfigError, one line with file and line, for all that is missing, unknown, of a wrong type or not there.
    """
    path = Path(path)
    values, root = _read_yaml(path)
    overridden: set[tuple[str, ...]] = set()
    for override in overrides:
        overridden.add(_apply_override(values, override))
    source = _Source(path, root, overridden)
    values = {key: {} if value is None and key in SECTIONS else value for key, value in values.items()}
    if "names" in values and "data" not in values:
        raise ConfigError(f"{path}: this is a data set's data.yaml; write a configuration with the line `data: {path}` and run that")
    values.setdefault("name", path.stem)
    if isinstance(values.get("train", {}), dict):
        values["train"] = _check(Train, values.get("train", {}), source, ("train",)).model_dump()
        if isinstance(values["train"].get("pretrained"), str):
            values["train"]["pretrained"] = _find_path("train.pretrained", values["train"]["pretrained"], source)
    for key in (*EXISTING_PATHS, "model"):
        if isinstance(values.get(key), str) and (key, values[key]) != ("images", "none"):
            values[key] = _find_path(key, values[key], source)
    config = _check(Config, values, source, ())
    if config.images == "none" and config.predictions is None:
        raise ConfigError(f"{source.place(('images',))}: images is none, and nothing can be trained without pictures; name predictions")
    if config.images == "none" and config.crops == "always":
        raise ConfigError(f"{source.place(('crops',))}: crops is always, but images is none, so there is nothing to cut them from")
    return config


def config_as_yaml(config: Config) -> str:
    """The configuration as resolved, with every default: a YAML file that `read_config` reads to the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _read_yaml(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a configuration such as configs/yolo.yaml")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: too large for a configuration; give a YAML file such as configs/yolo.yaml, and the data set in it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    from detclean.formats.yamlfile import read_yaml_text  # its room is heavy, and --help needs none of it

    def refuse_repeated(root: yaml.Node) -> None:
        for key in _repeated_keys(root):
            raise ConfigError(f"{path}:{key.start_mark.line + 1}: '{key.value}' stands twice; remove one")

    try:
        values, root = read_yaml_text(text, _Loader, refuse_repeated)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {error.problem}; mend it, with quotes around odd characters") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from error
    values = {} if root is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: should be lines of `key: value`, as in configs/yolo.yaml")
    return values, root


def _repeated_keys(node: yaml.Node) -> Iterator[yaml.Node]:
    """Keys that stand twice in one section; YAML would take the last without a word."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
            yield from _repeated_keys(value)


def _apply_override(values: dict[str, Any], override: str) -> tuple[str, ...]:
    """Puts `train.epochs=20` into `values` and answers where: ("train", "epochs")."""
    try:
        override.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"command line: {override!r} holds what is no text in UTF-8; write it, and what it names, in UTF-8") from None
    name, equals, text = override.partition("=")
    keys = tuple(name.split("."))
    if not equals or not name or not text or not all(keys) or any(part != part.strip() for part in (name, text)):
        raise ConfigError(f"command line: '{override}' is no override; write key=value without spaces, such as train.epochs=20")
    target = values
    for depth, key in enumerate(keys[:-1]):
        if target.get(key) is None and depth == 0 and key in SECTIONS:
            target[key] = {}
        if not isinstance(target.get(key), dict):
            raise ConfigError(f"command line: {_describe_unknown(keys, depth if key not in target else depth + 1)}")
        target = target[key]
    is_text = name in TEXT_KEYS and text not in ("null", "None", "~")
    target[keys[-1]] = text if is_text else _parse_value(text, override)
    return keys


def _parse_value(text: str, override: str) -> Any:
    """A value as YAML reads it; text stays as typed, so that ` #` or `: ` in a path is no comment and no mapping."""
    if text == "None":  # Ultralytics' word for null
        return None
    from detclean.formats.yamlfile import read_yaml_text

    try:
        value, _ = read_yaml_text(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        if text[0] in "[{":
            raise ConfigError(f"command line: '{override}' has a broken list; write key=[a,b], or quotes around text") from error
        return text
    is_quoted = text[0] in "'\"" and text[-1] == text[0]
    is_section = isinstance(value, dict) and text[0] == "{"
    return value if isinstance(value, (bool, int, float, list)) or is_quoted or is_section or value is None else text


def _find_path(key: str, text: str, source: _Source) -> str:
    """An absolute path where the file is there: below the working directory first, below the YAML's folder second."""
    given = Path(os.path.expanduser(text))
    for folder in (Path.cwd(), source.path.parent):
        if os.path.exists(folder / given):
            return os.path.abspath(folder / given)
    if key in ("model", "train.pretrained"):  # a name such as yolo26n.pt that Ultralytics finds or fetches
        return text
    looked = "" if given.is_absolute() else ", neither here nor beside the configuration"
    raise ConfigError(f"{source.place((key,))}: {key}: no such file or folder: {text}{looked}; correct the path")


def _check(model: type[Model], values: Mapping[str, Any], source: _Source, above: tuple[str, ...]) -> Model:
    """`values` as a model; `above` is the section that they stand in."""
    if above == ("train",):
        for name in values:
            if name in OWN_TRAIN_ARGUMENTS:
                place = source.place((*above, name))
                raise ConfigError(f"{place}: train.{name} is set by detclean, fold by fold; remove it{_owned_hint(name)}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(_describe(first, source, above)) from error


def _owned_hint(name: str) -> str:
    return f", and write {name} at the top level" if name in ("data", "model", "name", "split") else ""


def _describe(error: ErrorDetails, source: _Source, above: tuple[str, ...]) -> str:
    """One line for one of pydantic's errors: place, key, value, and what it should be."""
    keys = (*above, *error["loc"])
    if error["type"] in ("extra_forbidden", "invalid_key"):
        return f"{source.place(keys)}: {_describe_unknown(keys, len(keys) - 1)}"
    known, description = _known_part(keys)
    name = ".".join(known)
    if error["type"] == "missing":
        return f"{source.place(())}: {name} is missing; name it: {description}"
    given = error["input"]
    value = _one_line(json.dumps(given) if given is None or isinstance(given, bool) else repr(given))
    hint = ""
    if name == "split" and given is None:
        hint = f"; did you mean split{'=' if source.place(keys) == COMMAND_LINE else ': '}all, which takes every image?"
    return f"{source.place(keys)}: {name} is {value if len(value) <= 60 else value[:57] + '...'}, but should be {description}{hint}"


def _known_part(keys: Sequence[str | int]) -> tuple[tuple[str, ...], str]:
    """The part of a place that names a field, and that field's description; pydantic adds list positions and union members."""
    field = Config.model_fields[str(keys[0])]
    section = SECTIONS.get(str(keys[0]))
    if section is None or len(keys) == 1:
        return (str(keys[0]),), field.description or ""
    if keys[1] not in section.model_fields:  # a training argument that passes through
        return (str(keys[0]), str(keys[1])), "text, a number, true, false, null or a list of these"
    return (str(keys[0]), str(keys[1])), section.model_fields[str(keys[1])].description or ""


def _describe_unknown(keys: Sequence[str | int], depth: int) -> str:
    """`unknown key 'modle'; did you mean 'model'?` for the key at `depth`, looking at its own level first."""
    shown = ".".join(str(key) for key in keys[: depth + 1])
    name = str(keys[depth])
    if depth == 0:
        known = list(Config.model_fields)
    elif depth == 1 and keys[0] in SECTIONS:
        known = [f"{keys[0]}.{field}" for field in SECTIONS[str(keys[0])].model_fields]
    else:
        return f"unknown key '{shown}'; '{'.'.join(str(key) for key in keys[:depth])}' has no keys below it"
    elsewhere = [f"{section}.{field}" for section, model in SECTIONS.items() for field in model.model_fields]
    near = difflib.get_close_matches(shown, known, n=1) or [
        other for other in (*Config.model_fields, *elsewhere) if other.split(".")[-1] == name
    ]
    if near:
        return f"unknown key '{shown}'; did you mean '{near[0]}'?"
    hint = "; Ultralytics' training arguments stand below train" if depth == 0 else ""
    return f"unknown key '{shown}'; known here: {', '.join(known)}{hint}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())

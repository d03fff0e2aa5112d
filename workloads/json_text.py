"""A foreign JSON file as plain values with the line of each key, so that a complaint can point at it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..sim.errors import ConfigError
from ..sim.yaml_reader import Document, KeyPath, dotted, read_text

#: What a JSON text is made of, as far as keys and their lines need it: strings, structure, line ends.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|\n')


def read_json(path: Path) -> Document:
    """The mapping in the JSON file *path*, or a ConfigError with the line where it stops being one."""
    text, file = read_text(path), str(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        message = "is no JSON: the file ends too early" if at_end else f"is no JSON: {error.msg}, column {error.colno}"
        raise ConfigError(message, file=file, line=error.lineno,
                          mend="the file looks truncated; fetch it again" if at_end else None) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is no JSON: {error}", file=file) from None
    if not isinstance(value, dict):
        raise ConfigError("a config.json is an object of keys and values", file=file, line=1)
    return Document(value, _marks(text, file))


def _marks(text: str, file: str) -> dict[KeyPath, tuple[str, int | None]]:
    """The line of each key of the (valid) JSON *text*; a key that stands twice is refused."""
    marks: dict[KeyPath, tuple[str, int | None]] = {(): (file, 1)}
    path: list[Any] = []               # of the value being read: a key for an object, an index for an array
    is_object: list[bool] = []
    wants_key, line = False, 1
    for token in _TOKEN.findall(text):
        if token == "\n":
            line += 1
        elif token in "{[":
            is_object.append(token == "{")
            path.append(None if token == "{" else 0)
            wants_key = token == "{"
        elif token in "}]":
            is_object.pop()
            path.pop()
            wants_key = False
        elif token == ",":
            wants_key = is_object[-1]
            if not wants_key:
                path[-1] += 1
        elif token[0] == '"' and wants_key:
            path[-1], wants_key = json.loads(token), False
            _mark_key(tuple(path), marks, file, line)
    return marks


def _mark_key(path: KeyPath, marks: dict[KeyPath, tuple[str, int | None]], file: str, line: int) -> None:
    if path in marks:
        raise ConfigError(f"key '{dotted(path)}' stands twice (first on line {marks[path][1]})", file=file, line=line,
                          key=dotted(path), mend="remove one of them")
    marks[path] = (file, line)

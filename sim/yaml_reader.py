"""The one YAML reader: plain values with the file and line of each, and none of PyYAML's surprises.

Refused: duplicate keys (PyYAML keeps the last), anchors that hide where a value came from are resolved but keep their own
line, keys that are not text. Plain scalars follow the YAML 1.2 core schema: ``1e3`` is a number, ``on`` and ``12:30`` are text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError

#: Where a value stands: file name and 1-based line (None for a value that was set on the command line).
Mark = tuple[str, int | None]
KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[+-]?[0-9]+(_[0-9]+)*|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[+-]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][+-]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Document:
    """A tree of plain values and, for each path in it, where it stands."""

    value: Any
    marks: dict[KeyPath, Mark] = field(default_factory=dict)

    def mark(self, path: KeyPath) -> Mark:
        """The place of *path*, or of its nearest ancestor that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return ("<input>", None)


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar in the YAML 1.2 core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith("0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def read_text(path: Path) -> str:
    """The text of *path*, or a ConfigError that says why there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise ConfigError("is a directory; a file is wanted", file=str(path)) from None
    except FileNotFoundError:
        raise ConfigError("no such file", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text ({error.reason} at byte {error.start})", file=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None


def parse(text: str, file: str) -> Document:
    """The document in *text*; *file* is its name in messages."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError("is nested too deeply", file=file) from None
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        raise ConfigError(
            f"is no YAML: {error.problem or error.context}", file=file, line=where.line + 1 if where else None
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"is no YAML: {error}", file=file) from None
    document = Document(None)
    if node is not None:
        try:
            document.value = _build(node, (), file, document.marks)
        except RecursionError:
            raise ConfigError("is nested without end (an alias that holds itself, or too many levels)", file=file) from None
    else:
        document.marks[()] = (file, 1)
    return document


def _build(node: yaml.Node, path: KeyPath, file: str, marks: dict[KeyPath, Mark]) -> Any:
    marks[path] = (file, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return scalar(node.value) if node.style in (None, "") else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, i), file, marks) for i, child in enumerate(node.value)]
    values: dict[str, Any] = {}
    assert isinstance(node, yaml.MappingNode)
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError("a key must be a single word", file=file, line=line)
        key = key_node.value
        if key in values:
            first = marks[(*path, key)][1]
            raise ConfigError(
                f"key '{dotted((*path, key))}' stands twice (first on line {first})", file=file, line=line, key=key,
                mend="remove one of them",
            )
        values[key] = _build(value_node, (*path, key), file, marks)
        marks[(*path, key)] = (file, line)
    return values


def dotted(path: KeyPath) -> str:
    """``("parts", "hbm", 0)`` as ``parts.hbm.0``."""
    return ".".join(str(part) for part in path)


def merge(base: Document, over: Document) -> Document:
    """*over* on top of *base*: mappings merge key by key, anything else is replaced whole. Marks follow the values."""
    marks = dict(base.marks)
    value = _merge(base.value, over.value, (), marks, over.marks)
    return Document(value, marks)


def _merge(base: Any, over: Any, path: KeyPath, marks: dict[KeyPath, Mark], over_marks: dict[KeyPath, Mark]) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        changes_kind = "type" in over and over["type"] != base.get("type")
        if not changes_kind:      # a part of another kind shares no keys with the one that it replaces
            merged = dict(base)
            if path in over_marks:       # what is wrong with the whole is the wrong of who changed it
                marks[path] = over_marks[path]
            for key, value in over.items():
                merged[key] = _merge(base.get(key), value, (*path, key), marks, over_marks)
            return merged
    for old in [p for p in marks if p[: len(path)] == path]:
        del marks[old]
    marks.update({p: m for p, m in over_marks.items() if p[: len(path)] == path})
    return over


def set_value(document: Document, assignment: str) -> None:
    """Apply ``path=value`` (value read as a YAML scalar) to *document* in place; missing mappings on the way are made."""
    path_text, equals, text = assignment.partition("=")
    keys = [part.strip() for part in path_text.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"'{assignment}' is no path=value", file="--set", mend="write it like parts.hbm.stacks=4")
    here = document.value if isinstance(document.value, dict) else {}
    document.value = here
    for depth, key in enumerate(keys[:-1]):
        below = here.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{dotted(tuple(keys[: depth + 1]))} is a value, not a mapping", file=f"--set {assignment}")
        here = below
    parsed = parse(text, f"--set {assignment}").value
    here[keys[-1]] = parsed
    path = tuple(keys)
    for old in [p for p in document.marks if p[: len(path)] == path]:
        del document.marks[old]
    document.marks[path] = (f"--set {assignment}", None)


def find_named(name: str, folders: Iterator[Path] | list[Path], kind: str) -> Path:
    """The file that *name* means: a path to an existing file, or the stem of a shipped one in *folders*."""
    if os.sep in name or name.endswith((".yaml", ".yml", ".json")) or name in (".", ".."):
        path = Path(name)
        if path.is_dir():
            raise ConfigError(f"is a directory; a {kind} file is wanted", file=name)
        if not path.exists():
            raise ConfigError("no such file", file=name)
        return path
    shipped = {p.stem: p for folder in folders for p in sorted(folder.iterdir()) if p.suffix in (".yaml", ".json")}
    if name not in shipped:
        raise ConfigError(
            f"{name!r} is no shipped {kind}", key=kind, value=name, allowed=tuple(shipped),
            mend=f"a path to your own {kind} file works too",
        )
    return shipped[name]

"""Frozen, validated configs: one schema base, one loader, one error style.

A schema is a :class:`Config` (pydantic, frozen, unknown keys refused). The YAML key of a quantity is its field name without
the unit: field ``clock_hz: Hertz`` is written ``clock: 700 MHz``. In Python the field names are used, with plain numbers.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from . import yaml_reader
from .errors import ConfigError
from .units import Quantity, UnitError, parse_quantity
from .yaml_reader import Document, KeyPath, dotted

_SUFFIXES = ("_bytes_per_s", "_pj_per_bit", "_pj_per_byte", "_transfers_per_s", "_bytes", "_bits", "_cycles", "_ps", "_hz",
             "_pj", "_w", "_mm2", "_mm", "_v", "_a", "_ma", "_mv")


#: pydantic's complaints about numbers out of bounds, and the bound that each is about.
_BOUNDS = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}


class Config(BaseModel):
    """A frozen value that is right or does not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


ConfigT = TypeVar("ConfigT", bound=Config)


def yaml_key(field_name: str, info: FieldInfo) -> str:
    """The YAML key of a field: its name, without the unit suffix when it is a quantity or a mapping of names to quantities."""
    if quantity_kind(info) is not None or values_kind(info) is not None:
        for suffix in _SUFFIXES:
            if field_name.endswith(suffix):
                return field_name[: -len(suffix)]
    return field_name


def quantity_kind(info: FieldInfo) -> str | None:
    """The kind of quantity (a key of ``units.UNITS``) that a field holds, or None; ``Hertz | None`` counts."""
    direct = _kind(info.metadata)
    if direct is not None:
        return direct
    if get_origin(info.annotation) in (Union, types.UnionType):
        for option in get_args(info.annotation):
            if get_origin(option) is Annotated and (kind := _kind(get_args(option)[1:])) is not None:
                return kind
    return None


def values_kind(info: FieldInfo) -> str | None:
    """The kind of quantity that the values of a mapping field are, or None."""
    if get_origin(info.annotation) is dict:
        value = get_args(info.annotation)[1]
        if get_origin(value) is Annotated:
            return _kind(get_args(value)[1:])
    return None


def load_document(path: Path, folders: list[Path], kind: str, _seen: tuple[Path, ...] = ()) -> Document:
    """The document at *path* with its chain of ``extends:`` (a shipped name or a path beside the file) merged in."""
    document = yaml_reader.parse(yaml_reader.read_text(path), str(path))
    if not isinstance(document.value, dict):
        raise ConfigError(f"a {kind} is a mapping of keys to values", file=str(path), line=1)
    if "extends" not in document.value:
        return document
    parent = document.value.pop("extends")
    mark = document.mark(("extends",))
    if not isinstance(parent, str):
        raise ConfigError("extends must name one file", file=mark[0], line=mark[1])
    try:
        beside = path.parent / parent
        found = beside if beside.is_file() else yaml_reader.find_named(parent, folders, kind)
    except ConfigError as error:
        raise ConfigError(f"extends {parent!r}: {error.message}", file=mark[0], line=mark[1], value=error.value,
                          allowed=error.allowed) from None
    chain = (*_seen, path.resolve())
    if found.resolve() in chain:
        raise ConfigError(f"extends {parent!r} comes back to itself", file=mark[0], line=mark[1])
    return yaml_reader.merge(load_document(found, folders, kind, chain), document)


def load(
    schema: type[ConfigT], path: Path, *, folders: list[Path] | None = None, kind: str = "config",
    sets: Iterable[str] = (),
) -> ConfigT:
    """The *schema* value in the YAML at *path*, with ``extends:`` and ``--set`` assignments applied, or a ConfigError."""
    document = load_document(path, folders or [], kind)
    for assignment in sets:
        yaml_reader.set_value(document, assignment)
    return from_document(schema, document)


def from_document(schema: type[ConfigT], document: Document) -> ConfigT:
    """*document* as a *schema* value: quantities parsed, keys checked, and every error with its file and line."""
    data = _translate(schema, document.value, (), document)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise _config_error(error, document, schema) from None


def _translate(annotation: Any, value: Any, path: KeyPath, document: Document) -> Any:
    """*value* with YAML keys turned into field names and quantities into numbers, as *annotation* wants."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metadata = get_args(annotation)
        kind = _kind(metadata)
        return _translate_quantity(value, kind, path, document) if kind else _translate(base, value, path, document)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return _translate_config(annotation, value, path, document)
    if origin in (Union, types.UnionType):
        return _translate_union(get_args(annotation), value, path, document)
    if origin is dict and isinstance(value, dict):
        inner = get_args(annotation)[1]
        return {key: _translate(inner, item, (*path, key), document) for key, item in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        args = get_args(annotation)
        return [_translate(args[min(i, len(args) - 1)] if args and args[-1] is not Ellipsis else args[0], item,
                           (*path, i), document) for i, item in enumerate(value)]
    return value


def _kind(metadata: Iterable[Any]) -> str | None:
    return next((item.kind for item in metadata if isinstance(item, Quantity)), None)


def _translate_quantity(value: Any, kind: str, path: KeyPath, document: Document) -> Any:
    if value is None or isinstance(value, dict | list):
        return value
    try:
        exact = parse_quantity(value, kind)
    except UnitError as error:
        file, line = document.mark(path)
        raise ConfigError(f"{dotted(path)}: {error}", file=file, line=line, key=dotted(path), value=value) from None
    return exact.numerator if exact.denominator == 1 else float(exact)


def _translate_union(options: tuple[Any, ...], value: Any, path: KeyPath, document: Document) -> Any:
    if value is None:
        return None
    tagged = {tag: option for option in options if isinstance(option, type) and issubclass(option, Config)
              for tag in _tags(option)}
    if tagged and isinstance(value, dict) and (len(tagged) > 1 or "type" in value):
        return _translate(_pick(tagged, value, path, document), value, path, document)
    plain_configs = [o for o in options if isinstance(o, type) and issubclass(o, Config)]
    if len(plain_configs) == 1 and isinstance(value, dict):
        return _translate(plain_configs[0], value, path, document)
    for option in options:
        if get_origin(option) is Annotated:
            return _translate(option, value, path, document)
    others = [o for o in options if o is not type(None) and get_origin(o) in (dict, list, tuple)]
    return _translate(others[0], value, path, document) if len(others) == 1 else value


def _tags(option: type[Config]) -> tuple[str, ...]:
    field = option.model_fields.get("type")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _pick(tagged: dict[str, type[Config]], value: dict[str, Any], path: KeyPath, document: Document) -> type[Config]:
    if "type" not in value:
        file, line = document.mark(path)
        raise ConfigError(f"{dotted(path)} has no type", file=file, line=line, key=dotted((*path, "type")),
                          allowed=tuple(tagged))
    tag = value["type"]
    if tag not in tagged:
        file, line = document.mark((*path, "type"))
        raise ConfigError(f"{dotted((*path, 'type'))} is {tag!r}, which is no kind of part", file=file, line=line,
                          key=dotted((*path, "type")), value=tag, allowed=tuple(tagged))
    return tagged[tag]


def _translate_config(schema: type[Config], value: Any, path: KeyPath, document: Document) -> Any:
    if isinstance(value, schema):
        return value
    if not isinstance(value, dict):
        file, line = document.mark(path)
        raise ConfigError(f"{dotted(path) or 'the document'} is {value!r}; a mapping of keys to values is wanted",
                          file=file, line=line, key=dotted(path))
    fields = {yaml_key(name, info): (name, info) for name, info in schema.model_fields.items()}
    translated = {}
    for key, item in value.items():
        if key not in fields:
            file, line = document.mark((*path, key))
            raise ConfigError(f"{dotted((*path, key))} is no key here", file=file, line=line, key=dotted((*path, key)),
                              value=key, allowed=tuple(fields))
        name, info = fields[key]
        here = (*path, key)
        if isinstance(item, bool) and (info.annotation in (int, float) or quantity_kind(info)):
            file, line = document.mark(here)
            raise ConfigError(f"{dotted(here)} is {str(item).lower()}; a number is wanted", file=file, line=line,
                              key=dotted(here), value=item)
        kind = quantity_kind(info)
        translated[name] = (_translate_quantity(item, kind, here, document) if kind
                            else _translate(info.annotation, item, here, document))
    missing = [key for key, (name, info) in fields.items() if info.is_required() and name not in translated]
    if missing:
        file, line = document.mark(path)
        where = f"{dotted(path)} lacks" if path else "lacks"
        raise ConfigError(f"{where} the key {missing[0]!r}", file=file, line=line, key=dotted((*path, missing[0])),
                          mend=f"add: {', '.join(missing)}")
    return translated


def _config_error(error: ValidationError, document: Document, schema: type[Config]) -> ConfigError:
    """The first of pydantic's complaints, with the place in the file and the words of ours."""
    first = error.errors(include_url=False)[0]
    path = _existing_path(first["loc"], document.value)
    cause = first.get("ctx", {}).get("error")
    value = first.get("input")
    if isinstance(cause, Exception):
        path = _meant_path(path, cause, document.value)
        value = _at(document.value, path) if isinstance(cause, UnitError) else value
    file, line = document.mark(path)
    allowed: tuple[str, ...] = ()
    text = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "literal_error":
        allowed = tuple(part.strip(" '") for part in str(first["ctx"]["expected"]).replace(" or ", ", ").split(","))
        text = "is not one of those allowed"
    if first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        text = "a mapping of keys to values is wanted"
    if first["type"] in _BOUNDS:
        text = f"must be {_range(first, schema)}"
    shown = "" if isinstance(value, dict | BaseModel) else f" is {value!r}"
    name = dotted(path)
    message = f"{name}{shown}: {text}" if name else text
    return ConfigError(message, file=file, line=line, key=name, value=value, allowed=allowed)


def _range(first: Any, schema: type[Config]) -> str:
    """The numbers that a field allows, in words: all its bounds where the field is the schema's own, else the broken one."""
    bounds = {_BOUNDS[first["type"]]: first["ctx"][_BOUNDS[first["type"]]]}
    if len(first["loc"]) == 1 and first["loc"][0] in schema.model_fields:
        for item in schema.model_fields[first["loc"][0]].metadata:
            bounds.update({name: getattr(item, name) for name in _BOUNDS.values() if getattr(item, name, None) is not None})
    if "ge" in bounds and "le" in bounds:
        return f"from {bounds['ge']} to {bounds['le']}"
    words = {"ge": "{} or more", "gt": "greater than {}", "le": "{} or less", "lt": "less than {}"}
    return " and ".join(words[name].format(bounds[name]) for name in words if name in bounds)


def _meant_path(path: KeyPath, cause: Exception, value: Any) -> KeyPath:
    """The path of what a check of several keys complains of: the text without a unit, or the keys that its words begin with."""
    here = _at(value, path)
    if isinstance(cause, UnitError):
        return next((found for found, text in _leaves(here, path) if isinstance(text, str) and repr(text) in str(cause)), path)
    for word in str(cause).replace(",", " ").split():
        if not (isinstance(here, dict) and word in here):
            break
        path, here = (*path, word), here[word]
    return path


def _at(value: Any, path: KeyPath) -> Any:
    for key in path:
        value = value[key]
    return value


def _leaves(value: Any, path: KeyPath) -> Iterable[tuple[KeyPath, Any]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


def _existing_path(loc: tuple[str | int, ...], value: Any) -> KeyPath:
    """pydantic's location as a path of the YAML: union tags dropped, field names turned back into keys."""
    path: list[str | int] = []
    for part in loc:
        if isinstance(value, dict):
            key = next((k for k in value if k == part or (isinstance(part, str) and part.startswith(f"{k}_")
                                                         and part[len(k):] in _SUFFIXES)), None)
            if key is None:
                continue
            path.append(key)
            value = value[key]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)

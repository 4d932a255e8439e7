"""Settings from presets, YAML files, `--set` assignments and saved documents, checked against their dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from instag.config import Config
from instag.errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict (lists for tuples), fit for YAML and JSON."""
    return {
        f.name: to_dict(value)
        if dataclasses.is_dataclass(value := getattr(config, f.name))
        else list(value)
        if isinstance(value, tuple)
        else value
        for f in dataclasses.fields(config)
    }


def from_dict(cls: type[T], values: Mapping[str, Any], base: T | None = None, path: str = "") -> T:
    """Build a config dataclass; what `values` does not name comes from `base`, or from the defaults.

    Raises:
        ConfigError: for an unknown key (naming the nearest one) or a value of the wrong type.
    """
    base = cls() if base is None else base
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    changes = {}
    for key, value in values.items():
        where = f"{path}{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ConfigError(f"unknown setting '{where}': did you mean '{path}{near[0]}'?")
        changes[key] = _convert(hints[key], value, getattr(base, key), where)
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _convert(hint: Any, value: Any, current: Any, where: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value is None:
        if type(None) in options:
            return None
        raise ConfigError(f"setting '{where}' cannot be empty: give a {_name(hint)}")
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return from_dict(option, value, current if dataclasses.is_dataclass(current) else None, f"{where}.")  # type: ignore[arg-type]
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple:
            items = typing.get_args(option)
            if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(items):
                pairs = enumerate(zip(items, value, strict=True))
                return tuple(_convert(item, part, None, f"{where}[{i}]") for i, (item, part) in pairs)
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
            try:
                return float(value)
            except ValueError:
                pass
        if option in (int, bool, str) and type(value) is option:
            return value
    raise ConfigError(f"setting '{where}' is {value!r}: expected {_name(hint)}")


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)).replace("typing.", "")


def apply_assignments(config: Config, assignments: Sequence[str]) -> Config:
    """Apply `training.face.iterations=2000`-style settings; values are read as YAML."""
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: write it as section.name=value")
        try:
            values: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is not valid YAML; close its bracket or quote") from error
        for part in reversed(key.strip().split(".")):
            values = {part: values}
        config = from_dict(Config, values, config)
    return config


def preset_names() -> list[str]:
    """Names of the presets that ship."""
    return sorted(p.name[:-5] for p in resources.files("instag.configs").iterdir() if p.name.endswith(".yaml"))


def load_config(preset: str | Path, assignments: Sequence[str] = (), base: Config | None = None) -> Config:
    """A preset by name, or a YAML file by path, then the assignments.

    Raises:
        ConfigError: where the preset, a key or a value does not exist.
    """
    text = str(preset)
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise ConfigError(f"configuration {path} does not exist: give a YAML file or one of {preset_names()}")
        content = path.read_text(encoding="utf-8")
    else:
        if text not in preset_names():
            raise ConfigError(f"no preset '{text}': choose one of {', '.join(preset_names())}, or give a YAML file")
        content = resources.files("instag.configs").joinpath(f"{text}.yaml").read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(content) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"configuration {preset} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"configuration {preset} must hold sections with settings, not a {type(values).__name__}")
    return apply_assignments(from_dict(Config, values, base), assignments)

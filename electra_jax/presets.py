"""Settings to and from TOML. Every field is checked by name and type, since neither tomllib nor tyro does it."""

import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from electra_jax.config import PretrainConfig
from electra_jax.errors import UserError

T = TypeVar("T")


def load_config(preset: str | Path, **fields: Any) -> PretrainConfig:
    """A preset file (or the name of one that the package carries), with `data`, `out` and any other field given.

    Raises UserError for a file that is missing or no TOML, and for a field in it that is unknown or of the wrong type;
    TypeError for a field given here that is unknown, and where `data` or `out` is given nowhere.
    """
    return PretrainConfig(**(read_fields(preset) | fields))


def read_fields(preset: str | Path) -> dict[str, Any]:
    """The fields that a preset sets, its tables as dataclasses."""
    path = find(preset)
    return parse_fields(PretrainConfig, _table(path), str(path))


def read_toml(cls: type[T], path: Path) -> T:
    """An instance of dataclass `cls` from a TOML file; raises UserError where it doesn't hold one."""
    return parse(cls, _table(path), str(path))


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None


def find(preset: str | Path) -> Path:
    """The file itself, or configs/NAME.toml of the package or of the checkout it is run from."""
    package = Path(__file__).parent
    folders = [package / "configs", package.parent / "configs"]
    for path in [Path(preset), *(folder / f"{preset}.toml" for folder in folders)]:
        if path.is_file():
            return path
    names = sorted({path.stem for folder in folders for path in folder.glob("*.toml")})
    raise UserError(f"{preset}: no such file; presets are {', '.join(names)}")


def parse(cls: type[T], table: Any, where: str) -> T:
    """An instance of dataclass `cls` from a TOML table; `where` begins each error's line."""
    fields = parse_fields(cls, table, where)
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in fields and _required(f)]  # type: ignore[arg-type]
    if missing:
        raise UserError(f"{where}: field {missing[0]!r} is missing")
    return cls(**fields)


def parse_fields(cls: type, table: Any, where: str) -> dict[str, Any]:
    """The fields of dataclass `cls` that a TOML table sets, each checked against its type."""
    hints = typing.get_type_hints(cls)
    if not isinstance(table, dict):
        raise UserError(f"{where}: expected a table of fields, and {table!r} is a {type(table).__name__}")
    for name in table:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known ones: {', '.join(hints)}"
            raise UserError(f"{where}: unknown field {name!r}; {known}")
    return {name: _value(hints[name], value, f"{where}: {name}") for name, value in table.items()}


def check_types(config: Any) -> None:
    """Raise UserError for a field of a dataclass, or of those in it, that no TOML file could give it.

    Python takes any value for any of them, and would find out late, or never.
    """
    parse(type(config), _plain(dataclasses.asdict(config)), type(config).__name__)


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, where TOML's type says the same thing."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return parse(hint, value, where)  # type: ignore[arg-type]
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise UserError(f"{where}: {value!r} is none of {', '.join(map(repr, typing.get_args(hint)))}")
    if origin in (types.UnionType, typing.Union):
        return _value(next(arg for arg in typing.get_args(hint) if arg is not types.NoneType), value, where)
    if origin is tuple:
        several = value if isinstance(value, list) else [value]  # one alone needs no list
        return tuple(_value(typing.get_args(hint)[0], one, where) for one in several)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: the number is too large") from None
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = "a table" if dataclasses.is_dataclass(hint) else f"a {getattr(origin or hint, '__name__', hint)}"
    raise UserError(f"{where}: expected {expected}, and {value!r} is a {type(value).__name__}")


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def to_toml(config: Any) -> str:
    """A dataclass as TOML; fields that are None are left out."""
    return tomli_w.dumps(_plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value

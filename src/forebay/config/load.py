"""From a file, the environment and flags to a :class:`SystemConfig`; whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from forebay.config.checks import Report, check_settings, check_system
from forebay.config.document import Document, Key, read_document
from forebay.config.schema import System, SystemConfig
from forebay.config.shape import Shape, leaves, nearest, value_from_text
from forebay.errors import ConfigError, Problem

__all__ = ["load_settings", "load_system"]

_SECTIONS = ("system", "gateway")  # those whose values a variable can give


def load_system(
    path: str | Path,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    gateway_only: bool = False,
) -> SystemConfig:
    """Load and check a file.

    :param path: a TOML, YAML or JSON file of at most 4 MiB.
    :param environ: ``FOREBAY_SECTION_KEY`` variables in it override the file, as in ``FOREBAY_GATEWAY_WORKERS=2``.
    :param flags: override both: from a key, as in ``system.admin``, to the text given.
    :param gateway_only: the file must describe a gateway, and no services.
    :raises ConfigError: with all problems at once.
    """
    document = read_document(path)
    problems = _override(document, _SECTIONS, environ or {}, flags or {})
    if gateway_only and "services" in document.data:
        remedy = "run it with: forebay up FILE, or remove them"
        problems.append(document.problem(("services",), "a gateway file has no services", remedy))
    if gateway_only and "gateway" not in document.data:
        remedy = 'add [gateway] with bind = ["http://127.0.0.1:8080"]'
        problems.append(document.problem(("gateway",), "missing", remedy))
    return _checked(document, problems, check_system)


def load_settings(environ: Mapping[str, str], flags: Mapping[str, str]) -> System:
    """What ``[system]`` of a file would say, where there is no file.

    :raises ConfigError: with all problems at once.
    """
    document = Document("forebay", {"system": {}})
    problems = _override(document, ("system",), environ, flags)
    return _checked(document, problems, check_settings).system


def _checked(
    document: Document, problems: list[Problem], check: Callable[[SystemConfig, Report], None]
) -> SystemConfig:
    """The configuration that a document stands for; ``problems`` are those known already, none of which is lost."""
    shape = Shape(document)
    data = shape.fit(SystemConfig)
    problems = problems + shape.problems
    if not problems:
        config = msgspec.convert(data, SystemConfig)

        def report(key: Key, message: str, remedy: str) -> None:
            problems.append(document.problem(key, message, remedy))

        check(config, report)
        if not problems:
            return config
    raise ConfigError(document.file, sorted(problems, key=lambda problem: problem.line))


def _override(
    document: Document, sections: tuple[str, ...], environ: Mapping[str, str], flags: Mapping[str, str]
) -> list[Problem]:
    problems = []
    known: dict[str, tuple[tuple[str, ...], msgspec.inspect.Type]] = {}
    schema = cast(msgspec.inspect.StructType, msgspec.inspect.type_info(SystemConfig))
    for field in schema.fields:
        if field.encode_name in sections:
            for key, kind in leaves(field.type, (field.encode_name,)):
                known["FOREBAY_" + "_".join(key).upper()] = key, kind
    prefixes = tuple(f"FOREBAY_{section.upper()}_" for section in sections)
    for name in sorted(environ):
        if name in known:
            problems += _put(document, *known[name], environ[name], name)
        elif name.startswith(prefixes):
            problems.append(Problem("unknown variable", name, 0, nearest(name, known)))
    for flag, text in flags.items():
        key, kind = known["FOREBAY_" + flag.replace(".", "_").upper()]
        problems += _put(document, key, kind, text, f"--{flag.partition('.')[2].replace('_', '-')}")
    return problems


def _put(document: Document, key: tuple[str, ...], kind: msgspec.inspect.Type, text: str, origin: str) -> list[Problem]:
    if key[0] == "gateway" and "gateway" not in document.data:
        return [Problem("there is no gateway in the file", origin, 0, "add [gateway], or leave this out")]
    table: Any = document.data
    for part in key[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return []  # the walk over the document will say so
    table[key[-1]] = value_from_text(text, kind)
    document.origins[key] = origin
    return []

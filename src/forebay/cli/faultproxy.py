"""``forebay faultproxy``: what networks do to connections, between a client and its server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from forebay.engine.address import ANY_HOST, Address, parse_address

__all__ = ["faultproxy_command"]

# forebay.testing is imported where it is needed: no other command has a use for it.


def _address(_: click.Context, __: click.Parameter, text: str) -> Address:
    try:
        return parse_address(text if "://" in text else f"tcp://{text}")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _target(context: click.Context, parameter: click.Parameter, text: str) -> Address:
    address = _address(context, parameter, text)
    if address.host == ANY_HOST or address.port == 0:
        raise click.BadParameter(f"nobody can connect to '{text}'; give one host and its port, as in 127.0.0.1:8000")
    return address


def _fault(_: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, Any] | None:
    from forebay.testing.fault_script import parse_setting

    if text is None:
        return None
    try:
        return parse_setting(str(parameter.name), text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _direction(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    from forebay.testing.fault_script import parse_faults

    try:
        return {name: value for text in texts for name, value in parse_faults(text).items()}
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _flap(_: click.Context, __: click.Parameter, text: str | None) -> tuple[float, float] | None:
    from forebay.testing.fault_script import check_flapping, parse_flapping

    try:
        return None if text is None else check_flapping(parse_flapping(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _script(_: click.Context, __: click.Parameter, path: str | None) -> Any:
    from forebay.testing.fault_script import read_script

    if path is None:
        return None
    try:
        return read_script(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}") from None


@click.command("faultproxy", short_help="Forward connections, and do to them what networks do.")
@click.argument("target", metavar="TARGET", callback=_target)
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:0", callback=_address, help="[127.0.0.1, a free port]"
)
@click.option("--latency", metavar="DURATION", callback=_fault, help="Everything takes so much longer.")
@click.option("--jitter", metavar="DURATION", callback=_fault, help="Up to so much more, by chance.")
@click.option("--bandwidth", metavar="SIZE/s", callback=_fault, help="Of each connection, as in 100KB/s.")
@click.option("--slice", metavar="SIZE", callback=_fault, help="Data is cut into pieces of this size.")
@click.option("--slice-pause", metavar="DURATION", callback=_fault, help="Between two pieces. [0s]")
@click.option("--reset-after", metavar="DURATION|SIZE", callback=_fault, help="Reset connections then; 0s: at once.")
@click.option("--timeout", metavar="DURATION", callback=_fault, help="Nothing passes, and connections are closed then.")
@click.option("--black-hole", is_flag=True, help="Nothing passes, and connections stay open.")
@click.option("--limit", metavar="SIZE", callback=_fault, help="Close connections, orderly, after so much.")
@click.option("--flap", metavar="UP,DOWN", callback=_flap, help="Be there and be gone by turns, as in 10s,500ms.")
@click.option("--share", metavar="SHARE", callback=_fault, help="Of the connections that have faults, as in 30%.")
@click.option("--up", metavar="FAULTS", multiple=True, callback=_direction, help="From clients to TARGET only.")
@click.option("--down", metavar="FAULTS", multiple=True, callback=_direction, help="From TARGET to clients only.")
@click.option("--script", metavar="FILE", callback=_script, help="TOML: which faults when.")
@click.option("--seed", metavar="N", type=int, default=0, help="Of all that is left to chance. [0]")
@click.option("--verbose", is_flag=True, help="A line for each connection that has ended.")
def faultproxy_command(
    target: Address,
    listen: Address,
    black_hole: bool,
    flap: tuple[float, float] | None,
    up: dict[str, Any],
    down: dict[str, Any],
    script: Any,
    seed: int,
    verbose: bool,
    **faults: tuple[str, Any] | None,
) -> int:
    """Forward TCP connections to TARGET, a HOST:PORT, and do to them what networks do.

    Faults are for both directions, and hold for each one by itself. FAULTS are those of one direction, by the same
    names: latency=200ms,bandwidth=1MB/s. SIGINT and SIGTERM end it, with a summary.

    \b
    Example:
      forebay faultproxy 127.0.0.1:8000 --listen 127.0.0.1:9000 --latency 200ms --jitter 50ms
      forebay faultproxy 127.0.0.1:5432 --down bandwidth=100KB/s,limit=1MB --up black-hole
      forebay faultproxy 127.0.0.1:8000 --flap 10s,500ms --share 30% --verbose
      forebay faultproxy 127.0.0.1:8000 --script bad-day.toml
    """
    from forebay.testing.fault_program import run_fault_proxy

    if target == listen:
        raise click.BadParameter(f"{target} is where it listens itself", param_hint="'TARGET'")
    change: dict[str, Any] = dict(given for given in faults.values() if given is not None)
    if black_hole:
        change["black_hole"] = True
    change |= {"up": up, "down": down, "flapping": flap}
    run_fault_proxy(target, listen, change, script, seed=seed, verbose=verbose)
    return 0

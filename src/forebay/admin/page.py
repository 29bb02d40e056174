"""The status page: one self-contained document, made anew for every view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from forebay.admin.process import package_version
from forebay.admin.system import System, Worker
from forebay.observe import Family

__all__ = ["status_page"]

_MARKS = {"running": "good", "ready": "good", "up": "good", "draining": "warn", "starting": "warn", "down": "bad"}


def status_page(system: System, families: Iterable[Family]) -> str:
    """The page as HTML. Everything that comes from outside is escaped."""
    metrics = {family.name: family for family in families}
    reasons = system.unready()
    now = system.now()
    workers = system.workers
    places = {(worker.name, worker.index): worker.restarts for worker in workers}
    requests = _totals(metrics.get("forebay_http_requests"))
    seen = _from_clients(requests)
    facts = [
        ("requests answered", _count(sum(seen.values()))),
        ("of them 5xx", _count(sum(n for (_, status), n in seen.items() if status.startswith("5")))),
        ("workers ready", f"{sum(worker.state == 'ready' for worker in workers)} / {len(places)}"),
        ("restarts", _count(sum(places.values()))),
    ]
    tables = [_workers(workers, now), _requests(requests), _upstreams(metrics.values())]
    return _template().substitute(
        name=escape(system.name),
        state=escape(system.state),
        mark=_mark(system.state),
        about=escape(" · ".join(filter(None, [f"up {_duration(now - system.started_at)}", system.last_reload]))),
        reasons=f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in reasons)}</ul>" if reasons else "",
        facts="".join(f'<div class="fact"><b>{escape(n)}</b>{escape(label)}</div>' for label, n in facts),
        tables="".join(tables),
        version=escape(package_version()),
    )


@cache
def _template() -> Template:
    return Template(files("forebay.admin").joinpath("status.html").read_text(encoding="utf-8"))


def _workers(workers: Sequence[Worker], now: float) -> str:
    rows = [
        [
            escape(worker.name if worker.index == 0 else f"{worker.name} #{worker.index}"),
            _mark(worker.state),
            str(worker.pid or "-"),
            _duration(now - worker.started_at) if worker.pid else "-",
            str(worker.restarts),
            escape(worker.last_exit or "-"),
        ]
        for worker in workers
    ]
    return _table("Workers", ["worker", "state", "pid", "up for", "restarts", "last exit"], rows, {2, 3, 4})


def _totals(family: Family | None) -> dict[tuple[str, str], float]:
    """Requests by server and status, over all methods."""
    totals: dict[tuple[str, str], float] = {}
    for sample in family.samples if family else ():
        labels = dict(sample.labels)
        key = labels.get("server", ""), labels.get("status", "")
        totals[key] = totals.get(key, 0) + sample.value
    return totals


def _from_clients(totals: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Each request once: what went through the gateway was counted by the service behind it as well."""
    through_gateway = {key: n for key, n in totals.items() if key[0] == "gateway"}
    return through_gateway or {key: n for key, n in totals.items() if key[0] != "admin"}


def _requests(totals: dict[tuple[str, str], float]) -> str:
    servers = sorted({server for server, _ in totals})
    rows = []
    for server in servers:
        classes = [sum(n for (s, status), n in totals.items() if s == server and status[:1] == c) for c in "2345"]
        total = sum(n for (s, _), n in totals.items() if s == server)
        rows.append([escape(server), _count(total), *map(_count, classes)])
    return _table("Requests", ["server", "all", "2xx", "3xx", "4xx", "5xx"], rows, {1, 2, 3, 4, 5})


def _upstreams(families: Iterable[Family]) -> str:
    """Whatever is measured per upstream target, one column per metric."""
    columns: list[str] = []
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for family in families:
        for sample in family.samples:
            labels = dict(sample.labels)
            if "upstream" not in labels or "target" not in labels or sample.suffix not in ("", "_total"):
                continue
            column = family.name.removeprefix("forebay_").removeprefix("gateway_").removeprefix("upstream_")
            column = column.removeprefix("target_").replace("_", " ")
            if column not in columns:
                columns.append(column)
            row = cells.setdefault((labels["upstream"], labels["target"]), {})
            row[column] = row.get(column, 0) + sample.value
    rows = [
        [escape(upstream), escape(target), *(_cell(column, row.get(column)) for column in columns)]
        for (upstream, target), row in sorted(cells.items())
    ]
    return _table("Upstream targets", ["upstream", "target", *columns], rows, set(range(2, len(columns) + 2)))


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return _mark("up" if value else "down") if column in ("up", "healthy") else _count(value)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """A table of cells that are HTML already; nothing when it has no rows."""
    if not rows:
        return ""

    def line(tag: str, cells: Sequence[str], shown: Callable[[str], str] = str) -> str:
        made = (
            f"<{tag}{' class=number' if i in numbers else ''}>{shown(cell)}</{tag}>" for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<h2>{title}</h2><div class="sheet"><table>{line("th", heads, escape)}{body}</table></div>'


def _mark(state: str) -> str:
    return f'<span class="mark {_MARKS.get(state, "warn")}">{escape(state)}</span>'


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    for size, unit, smaller, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {below}"
    return f"{whole} s"

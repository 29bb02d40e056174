"""State diagrams of the policies, and the sequence of a deadline: boxes, arrows and words at places, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.plot import page, write
from forebay.policy.breaker import Breaker
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.deadline import HEADER, deadline
from forebay.policy.health import ActiveHealth, PassiveHealth
from forebay.policy.outlier_rules import OutlierRules
from forebay.policy.pool_settings import PoolSettings
from forebay.policy.slow_start import SlowStart

__all__ = ["DIAGRAMS"]

STYLE = (
    """  .box { fill: #eaf3fa; stroke: #0072b2; stroke-width: 1.5 } .good { fill: #e3f4ee; stroke: #009e73 }
  .bad { fill: #fbece2; stroke: #d55e00 } .plain { fill: none; stroke: #57606a; stroke-dasharray: 4 3 }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.5 } .head { fill: #57606a } .life { stroke: #d8dee4 }
  .work { fill: #0072b2; fill-opacity: 0.35 } .cut { stroke: #d55e00 } .cuthead { fill: #d55e00 }
""",
    """    .box { fill: #10243a; stroke: #56b4e9 } .good { fill: #0d2a24; stroke: #2ec4a0 }
    .bad { fill: #33200f; stroke: #ff8a3d } .plain { fill: none; stroke: #8b949e } .arrow { stroke: #8b949e }
    .head { fill: #8b949e } .life { stroke: #30363d } .work { fill: #56b4e9 } .cut { stroke: #ff8a3d }
    .cuthead { fill: #ff8a3d }
""",
)
HEAD = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="{kind}" d="M0 0L10 5L0 10z"/></marker>'
    '<marker id="cut" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="cuthead" d="M0 0L10 5L0 10z"/></marker></defs>'
).replace("{kind}", "head")


@dataclass(frozen=True, slots=True)
class Box:
    """A state: its name, and what it means."""

    x: float
    y: float
    width: float
    lines: Sequence[str]
    kind: str = ""

    def draw(self) -> list[str]:
        """As elements of SVG."""
        height = 22 + 17 * len(self.lines)
        parts = [
            f'<rect class="box {self.kind}" x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" height="{height}"'
            ' rx="8"/>'
        ]
        middle = self.x + self.width / 2
        for number, line in enumerate(self.lines):
            parts.append(write(middle, self.y + 24 + 17 * number, line, "middle", "" if number else "title"))
        return parts


@dataclass(frozen=True, slots=True)
class Arrow:
    """A change: the corners of its way, and what stands beside it."""

    way: Sequence[tuple[float, float]]
    at: tuple[float, float]
    lines: Sequence[str]
    anchor: str = "start"
    kind: str = "arrow"

    def draw(self) -> list[str]:
        """As elements of SVG. The words are over a line, or below it as far as they have several."""
        head = "cut" if "cut" in self.kind else "head"
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in self.way)
        parts = [f'<path class="{self.kind}" d="{path}" marker-end="url(#{head})"/>']
        x, y = self.at
        return parts + [write(x, y + 16 * number, line, self.anchor) for number, line in enumerate(self.lines)]


def _draw(title: str, width: float, height: float, parts: Sequence[Box | Arrow], more: Sequence[str] = ()) -> str:
    elements = [HEAD, *(element for part in parts for element in part.draw()), *more]
    return page(title, width, height, elements, 30, STYLE)


def breaker() -> str:
    """What a circuit does with calls, and when that changes; forced states too."""
    rules = Breaker()
    parts: list[Box | Arrow] = [
        Box(90, 84, 190, ["closed", "calls pass and are counted"], "good"),
        Box(600, 84, 190, ["open", "calls are refused at once"], "bad"),
        Box(330, 268, 200, ["half-open", f"{rules.probes} calls pass as probes"]),
        Arrow(
            [(280, 104), (600, 104)],
            (440, 96),
            [
                f"more than {rules.failure_rate:.0%} of at least {rules.min_calls} calls",
                "",
                f"of the last {rules.window:g} s failed,",
                "or too many took longer than slow_after",
            ],
            "middle",
        ),
        Arrow(
            [(760, 140), (760, 296), (530, 296)],
            (770, 210),
            [f"after {rules.open_for:g} s,", "when a call comes"],
        ),
        Arrow(
            [(470, 268), (470, 200), (640, 200), (640, 140)],
            (480, 222),
            [
                f"{rules.probes - rules.probe_successes + 1} of {rules.probes} probes failed or were slow:",
                f"open {rules.open_factor:g} times as long, up to {rules.open_cap:g} s",
            ],
        ),
        Arrow(
            [(330, 296), (220, 296), (220, 140)],
            (232, 222),
            [f"{rules.probe_successes} of {rules.probes} probes", "succeeded"],
        ),
        Arrow(
            [(400, 324), (400, 350), (460, 350), (460, 324)],
            (475, 347),
            [f"probes without a verdict for {rules.half_open_timeout:g} s: new probes"],
        ),
        Box(300, 396, 130, ["forced open"], "plain"),
        Box(450, 396, 130, ["forced closed"], "plain"),
        Box(600, 396, 130, ["off"], "plain"),
        Arrow([(300, 416), (130, 416), (130, 140)], (140, 408), ["force(None)"]),
    ]
    more = [write(740, 412, "by hand, from any", "start"), write(740, 428, "state: force(...)", "start")]
    return _draw("A breaker", 900, 456, parts, more)


def health() -> str:
    """Passive health, which requests decide, and active health, which checks decide."""
    passive, active = PassiveHealth(), ActiveHealth()
    parts: list[Box | Arrow] = [
        Box(40, 84, 140, ["up", "is used"], "good"),
        Box(385, 84, 140, ["ejected", "is not used"], "bad"),
        Box(720, 84, 150, ["probing", "one request tries it"]),
        Arrow(
            [(180, 100), (385, 100)],
            (282, 92),
            [f"{passive.max_fails} failure (max_fails)", "", f"within {passive.fail_timeout:g} s (fail_timeout)"],
            "middle",
        ),
        Arrow(
            [(525, 100), (720, 100)],
            (622, 92),
            [f"{passive.fail_timeout:g} s later, with a request"],
            "middle",
        ),
        Arrow(
            [(720, 126), (525, 126)],
            (622, 144),
            ["it failed, or came to", "no verdict"],
            "middle",
        ),
        Arrow([(795, 140), (795, 186), (110, 186), (110, 140)], (450, 178), ["it was answered"], "middle"),
        Box(40, 230, 140, ["up", "is used"], "good"),
        Box(385, 230, 140, ["down", "is not used"], "bad"),
        Arrow([(180, 246), (385, 246)], (282, 238), [f"{active.fall} bad checks in a row"], "middle"),
        Arrow([(385, 270), (180, 270)], (282, 288), [f"{active.rise} good checks in a row"], "middle"),
    ]
    more = [
        write(30, 64, "passive: what became of requests", "start"),
        write(30, 216, "active: what checks say", "start"),
        write(560, 256, "A target is used when both say so.", "start"),
    ]
    return _draw("Health of a target", 900, 310, parts, more)


def outlier() -> str:
    """A slow target gets lighter and leaves, a failing one leaves at once; both come back by slow start."""
    rules, slow_start = OutlierRules(), SlowStart()
    xs = [30, 260, 490, 740]
    names = ["full weight", *(f"weight x {factor:g}" for factor in rules.steps)]
    parts: list[Box | Arrow] = [
        Box(x, 150, 120, [name], "good" if not number else "")
        for number, (x, name) in enumerate(zip(xs, names, strict=False))
    ]
    parts.append(Box(xs[3], 150, 130, ["ejected"], "bad"))
    for number in range(3):
        begin, end = xs[number] + 120, xs[number + 1]
        words = ["slow"] if not number else [f"slow after {rules.step_time:g} s"]
        parts.append(Arrow([(begin, 162), (end, 162)], ((begin + end) / 2, 155), words, "middle"))
        if number < 2:
            words = ["not slow for", f"{rules.step_time:g} s"]
            parts.append(Arrow([(end, 178), (begin, 178)], ((begin + end) / 2, 194), words, "middle"))
    words = [
        f"failing: {rules.consecutive_failures} failures in a row, or more than {rules.error_rate:.0%} of at least"
        f" {rules.min_calls} calls, or far more than the group",
    ]
    parts.append(Arrow([(90, 150), (90, 98), (805, 98), (805, 150)], (447, 90), words, "middle"))
    for x in xs[1:3]:
        parts.append(Arrow([(x + 60, 150), (x + 60, 98)], (0, 0), [], kind="arrow"))
    parts.append(Box(390, 250, 180, ["slow start", "a little more every 1.5 s"]))
    parts.append(
        Arrow(
            [(805, 189), (805, 278), (570, 278)],
            (688, 270),
            [f"{rules.ejection_time:g} s are over (then", "", f"60, 120, ... {rules.ejection_cap:g} s)"],
            "middle",
        )
    )
    parts.append(Arrow([(390, 278), (90, 278), (90, 189)], (240, 270), [f"{slow_start.window:g} s are over"], "middle"))
    more = [
        write(
            30,
            332,
            f"Slow: the p99 is past {rules.latency_limit:g} s, or {rules.latency_ratio:g} times the group's median."
            f" At most {rules.max_ejected:.0%} of a group are out: one more is kept, at x 0.25 at most.",
            "start",
        )
    ]
    return _draw("Outlier detection", 900, 352, parts, more)


def pool() -> str:
    """What a resource of a pool is at."""
    rules = PoolSettings()
    parts: list[Box | Arrow] = [
        Box(40, 130, 120, ["dialling"]),
        Box(330, 130, 120, ["idle"], "good"),
        Box(690, 130, 130, ["in use"], "good"),
        Box(510, 240, 120, ["checking"]),
        Box(330, 350, 120, ["closed"], "bad"),
        Arrow([(160, 150), (330, 150)], (245, 142), ["nobody waits any more"], "middle"),
        Arrow([(100, 130), (100, 96), (755, 96), (755, 130)], (430, 88), ["dialled for one who waits"], "middle"),
        Arrow([(450, 140), (690, 140)], (570, 132), ["borrowed: the last used one first"], "middle"),
        Arrow([(690, 158), (450, 158)], (570, 175), ["released"], "middle"),
        Arrow(
            [(420, 169), (420, 252), (510, 252)],
            (428, 206),
            [f"wanted after {rules.check_after:g} s idle, or check_interval"],
        ),
        Arrow([(630, 260), (730, 260), (730, 169)], (640, 252), ["works"]),
        Arrow([(510, 268), (436, 268), (436, 350)], (446, 300), ["does not work"]),
        Arrow(
            [(350, 169), (350, 350)],
            (340, 270),
            [f"{rules.idle_timeout:g} s idle, old, too many,", "or room for another key"],
            "end",
        ),
        Arrow(
            [(780, 169), (780, 370), (450, 370)],
            (770, 330),
            ["broken, old, reclaimed,", "or the pool is smaller now"],
            "end",
        ),
        Arrow([(70, 169), (70, 370), (330, 370)], (80, 362), ["not dialled"]),
    ]
    words = "dialled: when somebody waits and there is room, or to have prewarm or min_idle ready;"
    more = [write(30, 58, f"{words} checked by the clock: idle again", "start")]
    return _draw("A resource of a pool", 860, 412, parts, more)


def bulkhead() -> str:
    """A call at a bulkhead, with the reasons for which it is refused."""
    rules = Bulkhead(limit=1)
    parts: list[Box | Arrow] = [
        Box(40, 160, 120, ["a call comes"], "plain"),
        Box(400, 84, 140, ["admitted", "holds a place"], "good"),
        Box(400, 180, 140, ["waiting", f"at most {rules.max_waiting}"]),
        Box(400, 300, 140, ["refused", "Overloaded"], "bad"),
        Box(720, 92, 120, ["it has ended"], "plain"),
        Arrow([(100, 160), (100, 112), (400, 112)], (110, 104), ["a place is free"]),
        Arrow([(160, 180), (330, 180), (330, 208), (400, 208)], (170, 172), ["none is free"]),
        Arrow(
            [(100, 199), (100, 328), (400, 328)],
            (110, 286),
            ["full: nobody may wait; queue-full; shed;", "deadline: it cannot be met; closed"],
        ),
        Arrow([(470, 180), (470, 140)], (480, 164), ["a place came free: the most urgent, the oldest of these"]),
        Arrow(
            [(470, 236), (470, 300)],
            (480, 264),
            [
                f"max-wait: {rules.max_wait:g} s; deadline: too late to be answered;",
                "pushed-out by one more urgent; closed",
            ],
        ),
        Arrow([(540, 112), (720, 112)], (630, 104), ["its place is free"], "middle"),
    ]
    return _draw("A call at a bulkhead", 860, 376, parts)


def deadlines() -> str:
    """A deadline over two hops, and what happens when the caller leaves. The times left are the policy's."""
    names = ["caller", "service", "gateway", "another service"]
    xs = [90, 310, 530, 760]
    top, scale = 96, 0.17  # of a millisecond

    def y(ms: float) -> float:
        return top + 32 + ms * scale

    def left_at(ms: float) -> str:
        with deadline(2.0, now=0.0):
            ((_, value),) = deadline.header(ms / 1000)
        return value

    parts: list[Box | Arrow] = [Box(x - 65, 52, 130, [name]) for x, name in zip(xs, names, strict=True)]
    lives = [f'<line class="life" x1="{x}" y1="91" x2="{x}" y2="{y(1420):g}" stroke-dasharray="4 4"/>' for x in xs]
    work = [(1, 5, 1205), (2, 305, 1210), (3, 310, 1215)]
    lives += [
        f'<rect class="work" x="{xs[who] - 5}" y="{y(begin):g}" width="10" height="{(end - begin) * scale:g}"/>'
        for who, begin, end in work
    ]

    def message(ms: float, begin: int, end: int, lines: Sequence[str], kind: str = "arrow") -> None:
        side = 6 if begin < end else -6
        way = [(xs[begin] + side, y(ms)), (xs[end] - side, y(ms))]
        place = ((xs[begin] + xs[end]) / 2, y(ms) - 7 - 16 * (len(lines) - 1))
        parts.append(Arrow(way, place, lines, "middle", kind))

    message(0, 0, 1, [f"{HEADER}: {left_at(0)}"])
    message(300, 1, 2, [f"{HEADER}: {left_at(300)}"])
    message(310, 2, 3, [f"{HEADER}: {left_at(310)}"])
    message(1200, 0, 1, ["closes"], "arrow cut")
    message(1206, 1, 2, ["closes"], "arrow cut")
    message(1212, 2, 3, ["closes"], "arrow cut")
    more = [
        *lives,
        write(xs[0] + 12, y(150), "within deadline(2.0)", "start"),
        write(xs[1] + 12, y(120), "300 ms of its own work", "start"),
        write(xs[3] + 12, y(380), "remaining()", "start"),
        write(xs[3] + 12, y(380) + 16, f"is {int(left_at(310)) / 1000:g} s", "start"),
        write(xs[0] - 65, y(1200) + 18, "goes away", "start"),
        *(write(x, y(1420) - 8, "is cancelled", "middle") for x in (xs[1], xs[3])),
        write(xs[2], y(1420) - 8, "lets go", "middle"),
    ]
    return _draw("A deadline over two hops", 900, y(1420) + 18, parts, more)


DIAGRAMS: dict[str, Callable[[], str]] = {
    "resilience-states-breaker.svg": breaker,
    "resilience-states-health.svg": health,
    "resilience-states-outlier.svg": outlier,
    "resilience-states-pool.svg": pool,
    "resilience-states-bulkhead.svg": bulkhead,
    "resilience-deadlines.svg": deadlines,
}
"""By the name of the file."""

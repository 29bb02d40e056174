from __future__ import annotations

import re

from forebay.admin.page import status_page
from forebay.observe import Sample
from tests.admin.fake import Fake, FakeWorker


def rows(page: str) -> list[list[str]]:
    """The text of every table row."""
    cells = (re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL))
    return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in cells]


def test_the_page_says_what_runs() -> None:
    """Name, state, workers with their history, requests by class, targets with their state."""
    system = Fake()
    system.workers = [FakeWorker(pid=321), FakeWorker(name="gateway", pid=0, state="backoff", restarts=0, last_exit="")]
    page = status_page(system, system.families)
    found = rows(page)
    assert ["users@7001", "ready", "321", "1 h 1 min", "2", "signal 9 (SIGKILL)"] in found
    assert ["gateway", "backoff", "-", "-", "0", "-"] in found
    assert ["users", "1,239", "1,234", "0", "0", "5"] in found
    assert ["users", "http://127.0.0.1:7001", "up"] in found
    assert ["users", "http://127.0.0.1:7002", "down"] in found
    assert "up 1 h 2 min" in page


def test_a_request_through_the_gateway_is_one_request() -> None:
    """The service behind it has counted it as well; what admin answered is no client's."""
    system = Fake()
    requests = system.families[0].samples
    requests.append(Sample("_total", (("server", "admin"), ("status", "200")), 50.0))
    assert "<b>1,239</b>requests answered" in status_page(system, system.families)
    requests.append(Sample("_total", (("server", "gateway"), ("status", "200")), 1200.0))
    assert "<b>1,200</b>requests answered" in status_page(system, system.families)


def test_reasons_for_not_being_ready_are_shown() -> None:
    """So is what was last reloaded."""
    system = Fake()
    system.reasons = ["users@7001: worker 0 is not ready"]
    system.last_reload = "last reload: refused (SIGHUP)"
    page = status_page(system, [])
    assert "users@7001: worker 0 is not ready" in page
    assert "last reload: refused (SIGHUP)" in page


def test_everything_from_outside_is_escaped() -> None:
    """A name, a reason or a label cannot bring markup along."""
    system = Fake()
    system.reasons = ["<script>1</script>"]
    system.workers = [FakeWorker(name="<b>", last_exit="<i>")]
    page = status_page(system, system.families)
    assert "the &lt;shop&gt;" in page
    for markup in ("<shop>", "<script>", "<b>w", "<i>"):
        assert markup not in page


def test_the_page_needs_nothing_else() -> None:
    """No script, no font, no picture from anywhere; it refreshes itself."""
    page = status_page(Fake(), [])
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert 'http-equiv="refresh"' in page
    assert "$" not in page

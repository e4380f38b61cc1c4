"""The pages in a real browser: nothing of a report runs, and keys, themes and phones work."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from tests.inspector.browser import browsing
from tests.inspector.running import fail, inspecting, keep, wait_for
from usercontext.inspector.index import ReportIndex
from usercontext.inspector.lists import Lists

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usercontext.inspector.server import Inspector

USER = {"id": "7", "username": "al", "ip_address": "203.0.113.7"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for all tests of this module."""
    with browsing() as browser:
        yield browser


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the reports."""
    return tmp_path / "reports.db"


@pytest.fixture
def inspector(path: Path) -> Iterator[Inspector]:
    """An inspector of it."""
    with inspecting(path) as inspector:
        yield inspector


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails its test if the browser complains."""
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    yield page
    context.close()
    assert complaints == []


# Hostile values

MARK = "document.title='ran'"
#: What has run in other pages of this kind; each sets a mark that can be seen.
VALUES = [
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"</title><script>{MARK}</script>",
    f"</style><script>{MARK}</script>",
    f"</textarea><script>{MARK}</script>",
    f"</pre></code></bdi><script>{MARK}</script>",
    f"--><script>{MARK}</script>",
    f"]]><script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f'<img src=x onerror="{MARK}">',
    f"<svg onload={MARK}>",
    f"<svg><script>{MARK}</script></svg>",
    f"<svg><animate onbegin={MARK} attributeName=x dur=1s>",
    f"<body onload={MARK}>",
    f'<iframe srcdoc="<script>parent.{MARK}</script>">',
    f"<iframe src=javascript:{MARK}>",
    f"<details open ontoggle={MARK}>",
    f"<video><source onerror={MARK}>",
    f"<input autofocus onfocus={MARK}>",
    f"<marquee onstart={MARK}>",
    f"<math><mtext></table><mglyph><style><img src=x onerror={MARK}>",
    f"<object data=javascript:{MARK}>",
    f"<a href=javascript:{MARK}>x</a>",
    f"<base href=javascript:{MARK}//>",
    f'<meta http-equiv=refresh content="0;url=javascript:{MARK}">',
    f"<form action=javascript:{MARK}><input type=submit>",
    f"<link rel=stylesheet href=data:,*{{x:expression({MARK})}}>",
    f'" onmouseover="{MARK}" x="',
    f"' onmouseover='{MARK}' x='",
    f'" autofocus onfocus="{MARK}" x="',
    f"` onmouseover={MARK} x=`",
    f" onmouseover={MARK} x=",
    f"javascript:{MARK}",
    f"JaVaScRiPt:{MARK}",
    f"java\tscript:{MARK}",
    f"\x01javascript:{MARK}",
    f"data:text/html,<script>{MARK}</script>",
    f"//evil.example/<script>{MARK}</script>",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "${7*7}",
    "#{7*7}",
    "{{ self.__init__.__globals__ }}",
    f"&lt;script&gt;{MARK}&lt;/script&gt;",
    f"&#60;script&#62;{MARK}&#60;/script&#62;",
    f"\\u003cscript\\u003e{MARK}\\u003c/script\\u003e",
    f"\x00<script>{MARK}</script>",
    f"\u2028<script>{MARK}</script>",
    f"\u202e<script>{MARK}</script>",
    f"+ADw-script+AD4-{MARK}+ADw-/script+AD4-",
]


#: What stands around them, as it might end what they stand in.
AROUND = [
    *(("", ""), ("x", ""), ("", "x"), ("\n", ""), (" ", ""), ("<b>", "</b>"), ("<", "")),
    *(("", ">"), ("&", ""), ("'", ""), ('"', ""), ("`", ""), ("<!--", ""), ("<![CDATA[", "")),
    *(("</", ""), ("", "//"), ("/*", "*/"), ("\\", ""), ("%", ""), ("<p ", "")),
]
#: Of the reports' pages every so many; by 13 each of the fifty is seen. 1 takes five minutes.
STEP = int(os.environ.get("USERCONTEXT_HOSTILE_STEP", "13"))


def hostile_event(number: int, value: str) -> dict[str, Any]:
    """Return an event in which every field that is shown holds the value."""
    frame = {
        "filename": value,
        "abs_path": value,
        "module": value,
        "function": value,
        "lineno": number,
        "in_app": True,
        "pre_context": [value],
        "context_line": value,
        "post_context": [value],
        "vars": {value: value, "nested": {value: [value]}},
    }
    error = {
        "type": value,
        "value": value,
        "module": value,
        "mechanism": {"source": value, "handled": False, "parent_id": 0},
        "stacktrace": {"frames": [{**frame, "in_app": False}, frame]},
    }
    kinds = ("error", value)
    request = dict.fromkeys(("method", "url", "query_string", "fragment"), value) | {
        "headers": {value: value, "X": "[Filtered]"},
        "cookies": [[value, value]],
        "env": {"REMOTE_ADDR": value, value: value},
        "data": {value: {value: value}},
    }
    told = {
        "address": {"source": "header", "header": value, "hops": 1, "reason": value},
        "withheld": [{"what": value, "rule": value}],
    }
    return {
        "event_id": f"{number:032x}",
        "timestamp": time.time(),
        "level": kinds[number % 2],
        "platform": value,
        "logentry": {"message": value, "formatted": value},
        "exception": {"values": [error, {**error, "type": f"{value}2"}]},
        "user": {
            "id": f"{value}{number}",
            "username": value,
            "email": value,
            "name": value,
            "ip_address": value,
            value: value,
        },
        "request": request,
        "contexts": {"usercontext": told, "runtime": {"name": value, "version": value}},
        "tags": {value: value},
        "sdk": {"name": value, "version": value},
        **dict.fromkeys(("transaction", "environment", "release", "server_name"), value),
        "logger": value,
    }


def write(path: Path, events: list[dict[str, Any]]) -> None:
    """Put events into a file, and index them."""
    rows = [
        (event["event_id"], event["timestamp"], f"id:{event['user']['id']}", json.dumps(event))
        for event in events
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO reports (event_id, timestamp, identity, payload) VALUES (?, ?, ?, ?)",
            rows,
        )


def test_nothing_of_a_report_runs(path: Path, inspector: Inspector, browser: Any) -> None:
    """A thousand hostile values, in every field that is shown, on every page: none runs."""
    values = [before + value + after for (before, after), value in product(AROUND, VALUES)]
    assert len(set(values)) == 1000
    write(path, [hostile_event(number, value) for number, value in enumerate(values, 1)])
    lists = Lists(path)
    wait_for(lambda: lists.totals().reports == 1000)
    context = browser.new_context()
    page = context.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    requested: set[str] = set()
    page.on("request", lambda request: requested.add(request.url))
    for url in hostile_pages(lists):  # each loaded, as a person would
        page.goto(f"{inspector.url.rstrip('/')}{url}", wait_until="load")
        assert page.title() != "ran", url
        assert page.evaluate("document.querySelectorAll('script').length") == 1, url
        assert page.evaluate(NO_HANDLERS) == [], url
    context.close()
    assert dialogs == []
    assert {url for url in requested if not url.startswith(inspector.url)} == set()


#: What would run of a page, if it did: handlers, links to scripts, and what loads by itself.
NO_HANDLERS = """
[...document.querySelectorAll('*')].filter(e =>
    [...e.attributes].some(a => a.name.startsWith('on') || a.name === 'srcdoc' ||
        /^\\s*(javascript|data):/i.test(a.value)
            && ['href', 'src', 'action', 'formaction', 'data'].includes(a.name)) ||
    ['IFRAME', 'OBJECT', 'EMBED', 'BASE', 'IMG', 'VIDEO', 'MATH'].includes(e.tagName)
).map(e => e.outerHTML)
"""


def hostile_pages(lists: Lists) -> Iterator[str]:
    """Yield every page of the lists, and the pages of reports, users and problems by turns."""
    from urllib.parse import quote

    walks = {"/": lists.problems, "/users": lists.users, "/reports": lists.timeline}
    for name, walk in walks.items():
        after = ""
        while True:
            page = walk(after=after)
            yield f"{name}?after={quote(after)}"
            after = page.after
            if not after:
                break
    for number in range(1, 1001, STEP):
        yield f"/reports/{number:032x}"
    for user in lists.users().rows[:25]:
        yield f"/user?of={quote(user.identity)}"
    for problem in lists.problems().rows[:25]:
        yield f"/problems/{problem.problem}"
    for value in VALUES[:25]:
        yield f"/search?q={quote(value)}"


def test_the_test_would_see_it(path: Path, inspector: Inspector, browser: Any) -> None:
    """Without escaping, and without the policy, the same values do run."""
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.route("**/*", lambda route: route.fulfill(body=VALUES[8], content_type="text/html"))
    page.goto(inspector.url)
    wait_for(lambda: page.title() == "ran")
    context.close()


# What a person does


def test_keys(path: Path, inspector: Inspector, page: Any) -> None:
    """`j`, `k` and Enter walk a list, `/` searches, `g u` changes the page."""
    for number in range(3):
        keep(path, f"number {number}", user=USER)
    wait_for(lambda: Lists(path).totals().reports == 3)
    page.goto(f"{inspector.url}reports")
    for key in "jjk":
        page.keyboard.press(key)
    assert "number 2" in page.locator(".row.at").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url("**/reports/*")
    assert "number 2" in page.locator("h1").inner_text()
    page.keyboard.press("[")
    page.keyboard.press("g")
    page.keyboard.press("u")
    page.wait_for_url("**/users")
    page.keyboard.press("/")
    page.keyboard.type("al")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=al")
    assert page.locator(".users .title").inner_text() == "id:7"


def test_live(path: Path, inspector: Inspector, page: Any) -> None:
    """A report that comes while the page is open appears by itself."""
    keep(path, "before", user=USER)
    wait_for(lambda: Lists(path).totals().reports == 1)
    page.goto(f"{inspector.url}reports")
    page.wait_for_selector("#live:not([hidden])")
    keep(path, "<b>after</b>", user={"id": "8"})
    page.get_by_text("<b>after</b>").wait_for()

    assert page.locator(".reports .row").count() == 2


def test_without_scripts(path: Path, inspector: Inspector, browser: Any) -> None:
    """Every page can be read, and walked, without JavaScript."""
    fail(path, KeyError("order"), user=USER)
    wait_for(lambda: Lists(path).totals().reports == 1)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(inspector.url)
    page.locator("a.title").click()
    page.locator("a.title").click()
    assert "raise error" in page.locator(".code .current").first.inner_text()
    page.locator(".user-card a").click()
    assert page.locator("h1").inner_text() == "id:7 al"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_themes_and_phones(
    path: Path, inspector: Inspector, browser: Any, scheme: str, width: int
) -> None:
    """Each theme has readable contrast, and no page is wider than a phone."""
    long = "a" * 300
    event_id = fail(path, KeyError(long), user={**USER, "name": long}, transaction=f"/{long}")
    wait_for(lambda: Lists(path).totals().reports == 1)
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    for url in ("", "users", "reports", f"reports/{event_id}", "user?of=id:7", "problems/1"):
        page.goto(f"{inspector.url}{url}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, url
        assert page.evaluate(WEAK_TEXTS) == [], url
    context.close()


#: Texts with a contrast to their background below 4.5 (WCAG 2.2, 1.4.3).
WEAK_TEXTS = """
(() => {
  const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const weak = new Set();
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.offsetParent) continue;
    const style = getComputedStyle(e);
    const shade = Number(style.opacity);
    const back = behind(e);
    const fore = numbers(style.color).slice(0, 3).map((v, i) => v * shade + back[i] * (1 - shade));
    const [a, b] = [light(fore), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) weak.add(`${e.className || e.tagName} ${ratio.toFixed(2)}`);
  }
  return [...weak];
})()
"""


def test_an_index_is_used_by_one_alone(path: Path) -> None:
    """Two inspectors of one file do not disturb each other."""
    keep(path, user=USER)
    with closing(ReportIndex(path)) as one, closing(ReportIndex(path)) as other:
        one.catch_up()
        other.catch_up()
    assert Lists(path).totals().reports == 1

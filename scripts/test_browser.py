#!/usr/bin/env python3
"""Opens the pages that `moec route` writes in headless Chromium: no console message, nothing wider than the window, no two texts
of a plot over each other, at 1280 and 400 pixels, light and dark. Chromium is looked for at CHROME, then on PATH; where there is none the test is skipped by name.

    test_browser.py MOEC [--screenshots DIR]

Chromium is spoken to by the DevTools protocol over two pipes, so that nothing but Python is needed."""

import array
import base64
import json
import os
import pathlib
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time

SIZES = (1280, 400)
SCHEMES = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60

SPEC = """
[moe]
name = "{name}"
hidden = 64
experts = {experts}
[router]
{router}
{capacity}
[expert]
intermediate = 128
"""
CAPACITY = '[capacity]\nfactor = 1.25\ncount_k = true\nround = "ceil"\n'
# What a page has to bear: few experts and many, batches and one, every kind of capacity and none, a collapsed router, several
# layers.
PAGES = (
    ("few-experts", 8, "top_k = 2", CAPACITY, 24, 64, 1.0),
    ("some-experts", 64, "top_k = 8", CAPACITY.replace("true", "false"), 5, 256, 0.8),
    ("many-experts", 256, 'top_k = 8\nscore = "sigmoid"', CAPACITY, 3, 256, 0.6),
    ("most-experts", 512, "top_k = 10", CAPACITY, 4, 256, 0.9),
    ("layers", 16, "top_k = 2", CAPACITY, 12, 64, 0.7),
    ("dropless", 60, "top_k = 4", "", 1, 128, 0.3),
    ("experts-choose", 12, 'mode = "expert_choice"', CAPACITY.replace("count_k = true\n", ""), 6, 96, 0.8),
    ("room-for-all", 8, "top_k = 2", "[capacity]\ntokens = 1000000\n", 2, 64, 0.5),
    ("collapsed-router-with-a-name-of-nearly-sixty-four-letters-x", 16, "top_k = 1", CAPACITY, 300, 8, 6.0),
)


def write_trace(path, experts, batches, tokens, inclination):
    """Logits that are the same on every machine: each expert has an inclination, which drifts from batch to batch."""
    numbers = random.Random(experts)
    inclined = [inclination * numbers.gauss(0, 1) for _ in range(experts)]
    drift = [0.5 * inclination * numbers.gauss(0, 1) for _ in range(experts)]
    header, data = {}, bytearray()
    for batch in range(batches):
        at = batch / max(batches - 1, 1)
        values = array.array("f")
        for _ in range(tokens):
            values.extend(numbers.gauss(0, 1) + a + at * d for a, d in zip(inclined, drift))
        if sys.byteorder == "big":
            values.byteswap()
        start = len(data)
        data += values.tobytes()
        name = f"layers.{batch // 2}.step_{batch % 2}" if path.stem == "layers" else f"batch.{batch}"
        header[name] = {"dtype": "F32", "shape": [tokens, experts], "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def find_chromium():
    given = os.environ.get("CHROME") or os.environ.get("CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A Chromium that answers on file descriptors 3 and 4, messages ended by a zero byte."""

    def __init__(self, program, profile):
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--hide-scrollbars"]
        flags += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]

        def ends():
            # Twice, since one of them may be 3 or 4 itself.
            a, b = os.dup(to_browser), os.dup(from_browser)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, *flags], preexec_fn=ends, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.last, self.rest, self.events = 0, b"", []

    def receive(self):
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], max(deadline - time.monotonic(), 0))
            part = os.read(self.read, 1 << 16) if ready else b""
            if not part:
                raise RuntimeError("the browser does not answer")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.receive())

    def stop(self):
        try:
            self.call("Browser.close")
        except (RuntimeError, OSError):
            self.process.kill()
        self.process.wait()


# What the page says about itself: its width, and each element that sticks out of it without scrolling in a box of its own.
MEASURE = """(() => {
  const wide = document.documentElement.clientWidth;
  const boxed = (e) => e.closest('.scroll') !== null && !e.classList.contains('scroll');
  const out = [...document.body.querySelectorAll('*')].filter((e) => !boxed(e) && e.getBoundingClientRect().right > wide + 1);
  const shown = (e) => e.getClientRects().length > 0 && e.checkVisibility();
  const small = [...document.querySelectorAll('figure > svg text')].filter(shown)
    .filter((e) => e.getBoundingClientRect().height < 10).map((e) => e.textContent);
  // Texts of one plot that cover each other: a third of a line's height is the room between lines.
  const overlaps = [...document.querySelectorAll('figure > svg')].filter(shown).flatMap((svg) => {
    const texts = [...svg.querySelectorAll('text')].map((t) => [t.textContent, t.getBoundingClientRect()]);
    return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([, q]) => {
      const spare = Math.min(p.height, q.height) / 3;
      return p.left < q.right - 1 && q.left < p.right - 1 && p.top + spare < q.bottom && q.top + spare < p.bottom;
    }).map(([b]) => a + ' | ' + b));
  });
  const cut = [...document.querySelectorAll('figure > svg')].filter(shown).flatMap((svg) => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter((t) => {
      const b = t.getBoundingClientRect();
      return b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 2 || b.bottom > box.bottom + 1;
    }).map((t) => t.textContent);
  });
  return JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth,
    out: out.map((e) => e.tagName + '.' + (e.getAttribute('class') || '')), small, cut, overlaps,
    page: getComputedStyle(document.body).backgroundColor, plots: document.querySelectorAll('figure > svg').length,
  });
})()"""


def check(browser, page, width, scheme, screenshot):
    """Every complaint about one page in one window."""
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.events.clear()
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable", session)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", session, features=media)
    browser.call(
        "Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1, mobile=width < 600
    )
    browser.call("Page.navigate", session, url=page.resolve().as_uri())
    browser.wait_for("Page.loadEventFired")
    found = browser.call("Runtime.evaluate", session, expression=MEASURE, returnByValue=True)
    found = json.loads(found["result"]["value"])
    if screenshot:
        # As tall as the page: what the window does not show is looked at too.
        size = browser.call("Page.getLayoutMetrics", session)["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
        shot = browser.call("Page.captureScreenshot", session, format="png", captureBeyondViewport=True, clip=clip)
        screenshot.write_bytes(base64.b64decode(shot["data"]))
    wrong = []
    for event in browser.events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            wrong.append(f"the console says {params['args']}")
        elif method == "Runtime.exceptionThrown":
            wrong.append(f"an exception: {params['exceptionDetails'].get('text')}")
        elif method == "Log.entryAdded":
            wrong.append(f"the log says {params['entry'].get('text')}")
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
            wrong.append(f"it asks for {params['request']['url']}")
    browser.call("Target.closeTarget", targetId=target)
    if found["inner"] != width or found["scroll"] > found["inner"]:
        wrong.append(f"{found['scroll']} pixels wide in a window of {found['inner']}")
    if found["out"]:
        wrong.append(f"sticking out: {found['out'][:5]}")
    if found["small"]:
        wrong.append(f"texts of less than 10 pixels: {found['small'][:5]}")
    if found["cut"]:
        wrong.append(f"texts outside their plot: {found['cut'][:5]}")
    if found["overlaps"]:
        wrong.append(f"texts over each other: {found['overlaps'][:5]}")
    if found["plots"] < 4:
        wrong.append(f"{found['plots']} plots")
    is_dark = sum(int(part) for part in found["page"].strip("rgb()").split(",")) < 384
    if is_dark != (scheme == "dark"):
        wrong.append(f"the page is {found['page']}")
    return wrong


def main():
    arguments = sys.argv[1:]
    screenshots = None
    if "--screenshots" in arguments:
        at = arguments.index("--screenshots")
        screenshots = pathlib.Path(arguments[at + 1])
        screenshots.mkdir(parents=True, exist_ok=True)
        del arguments[at : at + 2]
    if len(arguments) != 1:
        sys.exit(__doc__)
    chromium = find_chromium()
    if chromium is None:
        print("skipped: pages in a browser: there is no Chromium; CHROME names one")
        return
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        pages = []
        for name, experts, router, capacity, batches, tokens, inclination in PAGES:
            spec, trace, page = (folder / f"{name}.{end}" for end in ("toml", "safetensors", "html"))
            spec.write_text(SPEC.format(name=name, experts=experts, router=router, capacity=capacity))
            write_trace(trace, experts, batches, tokens, inclination)
            command = [arguments[0], "route", str(spec), "--logits", str(trace), "--html", str(page)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            pages.append(page)
        browser = Browser(chromium, folder / "profile")
        try:
            for page in pages:
                for width in SIZES:
                    for scheme in SCHEMES:
                        name = f"{page.stem} at {width} pixels, {scheme}"
                        shot = screenshots and screenshots / f"{page.stem}-{width}-{scheme}.png"
                        wrong = check(browser, page, width, scheme, shot)
                        print(f"{name}: {'; '.join(wrong) if wrong else 'ok'}")
                        failures += bool(wrong)
        finally:
            browser.stop()
    if failures:
        sys.exit(f"{failures} pages are wrong")


if __name__ == "__main__":
    main()

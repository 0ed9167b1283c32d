"""A headless Chromium that types and clicks, driven over a pipe by its DevTools protocol, without other packages."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.waiting import PATIENCE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

#: Chromium reads commands from descriptor 3 and answers on 4; a shell connects the pipes to them.
_START = 'commands=$1 answers=$2; shift 2; exec "$@" 3<"/proc/self/fd/$commands" 4>"/proc/self/fd/$answers"'
_KEYS = {"Enter": (13, "\r"), "Tab": (9, "\t")}


@dataclass
class Page:
    """One tab.

    Attributes
    ----------
    asked : list of str
        The address of everything the tab loaded.
    complaints : list of str
        Uncaught errors and what the browser logged as an error, such as a violated policy.
    """

    _commands: int
    _answers: int
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _session: str | None = None
    _number: int = 0
    _unread: bytes = b""

    def open(self, address: str, width: int = 1000, height: int = 900) -> None:
        """Open an address in a new tab, and close the previous one."""
        self._session = None
        self.asked.clear()
        self.complaints.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.look(width, height)
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def look(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """Set the window's size, without scroll bars, and the preferred colour scheme."""
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true on the page, and return it."""
        end = time.monotonic() + PATIENCE
        while not (found := self.value(expression)):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"), self.complaints)
            time.sleep(0.02)
        return found

    def click(self, selector: str) -> None:
        """Click the middle of the first element that matches a selector, after scrolling to it."""
        place = self.value(f"""(() => {{ const it = document.querySelector({json.dumps(selector)});
            it.scrollIntoView({{block: "center"}}); const box = it.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into the focused element."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press and release a key: a letter, or Enter or Tab."""
        code, text = _KEYS.get(key, (ord(key[0].upper()), key))
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if kind == "keyDown" else {}),
            )

    def picture(self, path: Path) -> None:
        """Save the whole page as a PNG file."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        session = {} if self._session is None else {"sessionId": self._session}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._answers], [], [], PATIENCE)[0], "the browser says nothing"
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser is gone"
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        reported = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.asked.append(reported["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(reported["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and reported["entry"]["level"] == "error":
            self.complaints.append(f"{reported['entry']['text']} {reported['entry'].get('url', '')}")


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """Run a browser with its own profile until the context is left."""
    assert BROWSER is not None
    (their_commands, commands), (answers, their_answers) = os.pipe(), os.pipe()
    arguments = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
        "about:blank",
    ]
    with (
        (profile.parent / "browser.log").open("wb") as log,
        subprocess.Popen(
            ["sh", "-c", _START, "sh", str(their_commands), str(their_answers), *arguments],
            stdout=log,
            stderr=log,
            pass_fds=(their_commands, their_answers),
            start_new_session=True,
        ) as process,
    ):
        os.close(their_commands)
        os.close(their_answers)
        page = Page(commands, answers)
        try:
            yield page
            page._session = None
            page.call("Browser.close")
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            os.close(commands)
            os.close(answers)
            _remove(profile, process.pid)


def _remove(profile: Path, group: int) -> None:
    """Remove a profile, to which other processes of the browser may write for a while after it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while profile.exists():
        shutil.rmtree(profile, ignore_errors=True)
        assert time.monotonic() < end, f"{profile} is still written to"

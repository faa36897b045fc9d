"""The viewer in a real headless Chromium: measuring, two clients, loopback only, the token."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from viewer_run import CENTRE, LENGTH, make_run, radius

from endorecon import geometry
from endorecon.viewer.case import open_case

needs = [p for p in ("chromium", "chromedriver") if shutil.which(p) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(needs), reason=f"browser test needs {', '.join(needs)} (apt-get)"),
]
webdriver = pytest.importorskip("selenium.webdriver", reason="browser test needs selenium")
pytest.importorskip("trame_vtk", reason="browser test needs trame: pip install endorecon[web]")

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--window-size=1200,760")  # fmt: skip


def wall(theta: float, s: float) -> np.ndarray:
    r = float(radius(np.array(theta), np.array(s)))
    return CENTRE + np.array([r * np.cos(theta), s - LENGTH / 2, r * np.sin(theta)])


@contextlib.contextmanager
def served(run: Path, host: str = "127.0.0.1") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`view(..., web=True)` in a process of its own, and the address it tells."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom endorecon.viewer.app import view\n"
        f"view(Path({str(run)!r}), web=True, host={host!r}, say=lambda w: print(w, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("http://"):
                break
        else:
            raise AssertionError("no address was told")
        yield process, line.strip()
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = shutil.which("chromium") or ""
        driver = webdriver.Chrome(
            options=options, service=Service(shutil.which("chromedriver") or "")
        )
        try:
            yield driver
        finally:
            driver.quit()


def until(good: Callable[[], Any], what: str, seconds: float = 150) -> Any:
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answer := good():
                return answer
        except WebDriverException:
            pass
        time.sleep(0.3)
    raise AssertionError(what)


def find(driver: Any, css: str) -> list[Any]:
    return driver.find_elements("css selector", css)


def message(driver: Any) -> str:
    return str(find(driver, "#er-message")[0].get_attribute("textContent"))


def values(driver: Any) -> list[str]:
    return [e.text for e in find(driver, "#er-table .er-value")]


def press(driver: Any, keys: str) -> None:
    find(driver, "#er")[0].send_keys(keys)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("web") / "run", n=4).path


def test_measuring_in_the_browser_and_a_second_client_sees_it(run: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    cameras = open_case(run).cameras
    assert cameras is not None
    a, b = wall(0.0, 16.0), wall(np.pi / 2, 16.0)
    with served(run) as (process, url), browser() as one, browser() as two:
        one.get(url)
        until(lambda: find(one, "#er-view img, #er-view canvas"), "the page opens", 90)
        assert "NOT FOR CLINICAL USE" in until(lambda: one.title, "a title")
        time.sleep(3)
        press(one, "f")
        until(lambda: "Endoscope view of frame 4" in message(one), "the flight")
        press(one, "d")
        until(lambda: "Distance" in message(one), "the tool in hand")
        view = find(one, "#er-view")[0]
        W, H = view.size["width"], view.size["height"]
        s = min(W / cameras.width, H / cameras.height)
        for k, p in enumerate((a, b)):
            (u, v), _ = geometry.project(p, cameras.world_from_camera[0], cameras.K)
            x, y = s * (u - cameras.width / 2), s * (v - cameras.height / 2)
            ActionChains(one).move_to_element_with_offset(view, round(x), round(y)).perform()
            ActionChains(one).click().perform()
            until(lambda k=k: message(one) == "1 picked" if k == 0 else values(one), f"point {k}")
        (shown,) = values(one)
        value = float(re.findall(r"[\d.]+", shown)[0])
        print("shown", shown, "truth", float(np.linalg.norm(a - b)))
        assert shown.endswith(" mm") and abs(value - float(np.linalg.norm(a - b))) < 0.1
        press(one, "s")
        until(lambda: "Written" in message(one), "saved")

        two.get(url)  # the second client sees what the first has done, and the other way round
        until(lambda: values(two) == [shown], "the second client", 90)
        press(two, "u")
        until(lambda: values(two) == [] and len(values(one)) <= 1, "undone by the second client")
        press(two, "u")
        until(lambda: values(one) == [], "the first client follows")
        press(one, "l")
        until(lambda: values(one) == [shown] and values(two) == [shown], "loaded for both")
        for driver in (one, two):
            bad = [e for e in driver.get_log("browser")
                   if e["level"] == "SEVERE" and "/paraview/" not in e["message"]]  # fmt: skip
            assert not bad, bad
        assert_loopback_only(process.pid, urlparse(url).port or 0)


def assert_loopback_only(pid: int, port: int) -> None:
    """Every listening socket of the process is bound to 127.0.0.1 or ::1, and no other exists."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if found := re.match(r"socket:\[(\d+)\]", str(fd.readlink())):
                inodes.add(found.group(1))
    heard = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                heard.append(words[1])
    loopback = f"0100007F:{port:04X}"
    assert heard == [loopback], heard


def ask(host: str, port: int, path: str, **headers: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("Set-Cookie")


SOCKET = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13",
          "Sec_WebSocket_Key": "x3JJHMbDL1EzLkh9GBhXDw=="}  # fmt: skip


def test_pages_of_other_origins_and_names_are_turned_away(run: Path) -> None:
    with served(run) as (_, url):
        port = urlparse(url).port or 0
        assert "token" not in url
        assert ask("127.0.0.1", port, "/index.html")[0] == 200
        assert ask("127.0.0.1", port, "/ws", Origin="http://evil.example", **SOCKET)[0] == 403
        assert ask("127.0.0.1", port, "/index.html", Host=f"evil.example:{port}")[0] == 403
        with socket.socket() as other:  # nobody answers at the machine's own other addresses
            other.settimeout(2)
            with pytest.raises(OSError):
                other.connect((_other_address(), port))


def _other_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        address = str(probe.getsockname()[0])
        if not address.startswith("127."):
            return address
    return "127.0.0.2"  # loopback too, but not the address that was bound


def test_beyond_loopback_a_token_is_demanded_of_page_and_socket(run: Path) -> None:
    with served(run, "0.0.0.0") as (_, url):
        parts = urlparse(url)
        port, token = parts.port or 0, parts.query.removeprefix("token=")
        assert len(token) >= 24
        for path in ("/", "/index.html", "/ws"):
            assert ask("127.0.0.1", port, path)[0] == 401
        assert ask("127.0.0.1", port, "/ws", **SOCKET)[0] == 401
        assert ask("127.0.0.1", port, "/?token=" + "x" * len(token))[0] == 401
        status, cookie = ask("127.0.0.1", port, f"/?token={token}")
        assert status == 302 and cookie is not None and "HttpOnly" in cookie
        own = cookie.split(";")[0]
        assert ask("127.0.0.1", port, "/index.html", Cookie=own)[0] == 200
        assert ask("127.0.0.1", port, "/ws", Cookie=own, **SOCKET)[0] == 101

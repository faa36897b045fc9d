"""The report: one self-contained HTML file, and a PDF of the same.

Text and pictures stand inside the file; nothing is fetched. The PDF is made by WeasyPrint (extra
`report`) or, without it, by a Chromium found on this machine; without both there is no PDF, and
the report's warnings say so. A picture that cannot be drawn (no OpenGL) is replaced by the reason.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import EvaluateConfig
from endorecon.evaluate import pictures
from endorecon.evaluate.distances import CT_SCALE
from endorecon.evaluate.icp import Target
from endorecon.evaluate.register import OwnScale, Registered
from endorecon.evaluate.statistics import surface_distance
from endorecon.geometry import apply
from endorecon.io import atomic
from endorecon.io.rundir import RunDir
from endorecon.scene import OBSERVED, Measurement, Surface

Array = NDArray[Any]
_PICTURES = ("surfaces", "residuals", "frames", "path", "convergence", "bland_altman")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Document:
    """All that the report says, without pictures."""

    summary: str
    warnings: tuple[str, ...]
    scale: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    measurements: tuple[Measurement, ...]
    registered: Registered
    own: OwnScale | None
    facts: dict[str, Any]
    provenance: dict[str, Any]


def write(
    out: Path,
    document: Document,
    run: RunDir,
    placed: Surface,
    ct: Surface,
    target: Target,
    config: EvaluateConfig,
) -> tuple[Path, Path | None, tuple[str, ...]]:
    """Write report.html and report.pdf; returns both paths and what could not be made."""
    del config
    shown, missing = _pictures(document, run, placed, ct, target)
    pdf, tool = out / "report.pdf", pdf_tool()
    if tool is None:
        pdf.unlink(missing_ok=True)
        missing.append("no PDF was written: pip install 'endorecon[report]', or install Chromium")
    html = render(document, shown, tuple(missing))
    made: Path | None = None
    if tool is not None:
        try:
            atomic.write_bytes(pdf, tool(html))
            made = pdf
        except (OSError, subprocess.SubprocessError, RuntimeError, ValueError) as error:
            missing.append(f"no PDF was written: {type(error).__name__}")
            html = render(document, shown, tuple(missing))
    atomic.write_text(out / "report.html", html)
    return out / "report.html", made, tuple(missing)


def render(document: Document, shown: dict[str, str], missing: tuple[str, ...]) -> str:
    """The HTML text. `shown`: picture name -> data URI."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined)
    environment.filters["num"] = _number
    template = environment.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))
    return template.render(
        d=document,
        groups=_groups(document),
        refused=list(dict.fromkeys((r[0], _reason(r[9])) for r in document.rows if r[2] == "0")),
        f=document.facts,
        p=document.provenance,
        r=document.registered,
        warnings=[*document.warnings, *missing],
        pictures={name: shown.get(name) for name in _PICTURES},
        fits=[x for x in (document.registered.rigid, document.registered.similarity) if x],
    )


def _groups(document: Document) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Measured rows by their source of scale, each with its title."""
    measured = [row for row in document.rows if row[2] != "0"]
    other = [row for row in measured if row[1].endswith(CT_SCALE)]
    if not other:
        return [("", measured)]
    own = [row for row in measured if not row[1].endswith(CT_SCALE)]
    source = "its own source" if document.own is None else document.own.source
    return [(f"Scale from {source}", own), ("Scale from the CT", other)]


def _reason(status: str) -> str:
    return status.removeprefix("refused: ")


def _number(value: Any, digits: int = 2, sign: bool = False) -> str:
    if not isinstance(value, int | float) or not np.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _pictures(
    document: Document, run: RunDir, placed: Surface, ct: Surface, target: Target
) -> tuple[dict[str, str], list[str]]:
    T = document.registered.primary.ct_from_recon
    _, signed = surface_distance(placed.vertices, target, 5.0)
    signed = np.where(placed.status == OBSERVED, signed, np.nan)
    good = [
        m
        for m in document.measurements
        if m.status == "ok" and m.unit == "mm" and not m.kind.endswith(CT_SCALE)
    ]
    primary = document.facts["agreement"].get("primary", {})
    centres = apply(T, run.cameras().world_from_camera[:, :3, 3])
    fit = document.registered.landmark_fit
    marks: dict[str, Array] = {} if fit is None else document.facts.get("landmarks_lps", {})
    todo: dict[str, Callable[[], bytes | None]] = {
        "surfaces": lambda: pictures.surfaces(placed, ct, target, marks),
        "residuals": lambda: pictures.residuals(signed),
        "frames": lambda: pictures.frames(run),
        "path": lambda: pictures.path(centres, placed),
        "convergence": lambda: pictures.convergence(run.events()),
    }
    if "bland_altman" in primary:
        todo["bland_altman"] = lambda: pictures.bland_altman(good, primary["bland_altman"])
    shown, missing = {}, []
    for name, draw in todo.items():
        try:
            png = draw()
        except Exception as error:  # a missing picture must not cost the numbers
            missing.append(f"the picture '{name}' could not be drawn ({type(error).__name__})")
            continue
        if png is not None:
            shown[name] = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return shown, missing


def pdf_tool() -> Callable[[str], bytes] | None:
    """What can make a PDF here: WeasyPrint, else a Chromium, else None."""
    try:
        import weasyprint  # noqa: F401  (OSError when its system libraries are missing)
    except (ImportError, OSError):
        browser = next((b for b in map(shutil.which, _BROWSERS) if b), None)
        return None if browser is None else lambda html: _by_browser(html, browser)
    return _by_weasyprint


def _by_weasyprint(html: str) -> bytes:
    import logging

    import weasyprint
    import weasyprint.urls

    logging.getLogger("weasyprint").setLevel(logging.ERROR)

    fetcher = weasyprint.urls.URLFetcher(allowed_protocols=["data"])  # the report fetches nothing
    return bytes(weasyprint.HTML(string=html, url_fetcher=fetcher).write_pdf())


def _by_browser(html: str, browser: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        page, pdf = Path(folder) / "report.html", Path(folder) / "report.pdf"
        page.write_text(html, "utf-8")
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={folder}/profile", "--no-pdf-header-footer",
             f"--print-to-pdf={pdf}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        return pdf.read_bytes()

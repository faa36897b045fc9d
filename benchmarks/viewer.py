"""Opening time and frame rate of the viewer for 0.1, 0.5 and 2 million faces, drawn off-screen.

    python benchmarks/viewer.py [--out benchmarks/results/viewer.md] [--faces 0.1 0.5 2]

Opening: from `open_case` to the first picture. Turning: azimuth by 3 degrees a picture with the
full surface, and as light as it is while the hand moves (no multisampling, above 120,000 faces a
thinned twin). Written with the
renderer's name: on software rendering these are lower bounds of what a graphics card does.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def measure(folder: Path, millions: float) -> dict[str, float | str]:
    """Timings (s, frames/s) of one size."""
    from viewer_run import cavity, recon_from_ct

    from endorecon import geometry
    from endorecon.io.rundir import RunDir
    from endorecon.viewer.case import open_case
    from endorecon.viewer.session import Session, make_plotter

    n = int(np.sqrt(millions * 1e6 / 2))
    truth = cavity(n, n)
    vertices = geometry.apply(recon_from_ct(), truth.vertices)
    RunDir(folder).save_surface(
        dataclasses.replace(truth, vertices=vertices, unit="unitless", space="reconstruction")
    )
    start, cpu = time.perf_counter(), time.process_time()
    session = Session(make_plotter((1280, 800)), open_case(folder))
    session.draw_now()
    opened = time.perf_counter() - start
    out: dict[str, float | str] = {"faces": float(len(truth.faces)), "opening": opened}
    out["opening cpu"] = time.process_time() - cpu

    def rate(name: str, seconds: float = 4.0) -> float:
        session.draw_now()
        begun, k, worked = time.perf_counter(), 0, time.process_time()
        while time.perf_counter() - begun < seconds:
            session.camera.Azimuth(3.0)
            session.draw_now()
            k += 1
        out[f"{name} cpu"] = (time.process_time() - worked) / k
        return k / (time.perf_counter() - begun)

    out["full"] = rate("full")
    start = time.perf_counter()
    session.motion.start()
    out["twin made"] = time.perf_counter() - start
    stands_in = session.surface_layer is not None and session.surface_layer.has_twin
    out["turning"] = rate("turning")
    out["twin"] = "yes" if stands_in else "no"
    session.motion.stop()
    session.motion.settle()
    start = time.perf_counter()
    session.hands.pick(640, 400)
    out["first pick"] = time.perf_counter() - start
    start = time.perf_counter()
    session.hands.pick(600, 380)
    out["next pick"] = time.perf_counter() - start
    start = time.perf_counter()
    session.colour("sigma")
    out["other colouring"] = time.perf_counter() - start
    text = session.plotter.render_window.ReportCapabilities()
    named = [line for line in text.splitlines() if "renderer string" in line]
    out["renderer"] = named[0].split(":", 1)[1].strip() if named else "unknown"
    session.plotter.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/viewer.md"))
    parser.add_argument("--faces", type=float, nargs="+", default=[0.1, 0.5, 2.0])
    args = parser.parse_args()
    from viewer_run import make_run

    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = make_run(Path(place) / "run", n=3, width=80, height=64).path
        for millions in args.faces:
            rows.append(measure(folder, millions))
            print(rows[-1])
    keys = ("opening", "opening cpu", "full", "full cpu", "turning", "turning cpu", "twin",
            "twin made", "first pick", "next pick", "other colouring")  # fmt: skip
    heads = ("opening s", "its CPU s", "full surface frames/s", "CPU s a picture",
             "while turning frames/s", "CPU s a picture", "twin stands in",
             "twin made s", "first pick s", "next pick s", "other colouring s")  # fmt: skip
    load = os.getloadavg()[0]
    lines = [
        "# Viewer: opening and frame rate", "",
        f"1280x800, off-screen, {rows[0]['renderer']}, {os.cpu_count()} cores, load average "
        f"{load:.1f} at the end, niceness {os.nice(0)} (other work on the machine: upper bounds).", "",
        "| faces | " + " | ".join(heads) + " |", "| ---: |" + " ---: |" * len(heads),
    ]  # fmt: skip
    for r in rows:
        cells = [r[k] if isinstance(r[k], str) else f"{float(r[k]):.2f}" for k in keys]
        lines.append(f"| {float(r['faces']):,.0f} | " + " | ".join(map(str, cells)) + " |")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

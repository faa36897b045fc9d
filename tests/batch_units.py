"""Trivial units for tests of scheduling: each writes its number, and counts how often it ran."""

from __future__ import annotations

import sys
from pathlib import Path

from endorecon.batch import Snapshot, run_units
from endorecon.batch_study import Resources, Unit, digest


def trivial_units(
    count: int, out: Path, sleep: float = 0.0, resources: Resources | None = None
) -> list[Unit]:
    """`started` gets a line a start, `computed` a line a completed step."""
    found = resources or Resources(cores=1, disk_mb=0.01, memory_gb=0.1, hours=1.0)
    units = []
    for k in range(count):
        key = digest(["trivial", k])[:16]
        folder = out.resolve() / "units" / key
        first = f"echo x >> {folder}/started; sleep {sleep}; echo {k * k} > {folder}/value"
        second = f"cat {folder}/value > {folder}/result; echo x >> {folder}/computed"
        steps = (
            ("first", True, ("/bin/sh", "-c", first)),
            ("second", True, ("/bin/sh", "-c", second)),
        )
        units.append(Unit(key, f"case {k}", "only", 0, steps, found))
    return units


def run_all(units: list[Unit], out: Path, **more: object) -> Snapshot:
    """Run to the end; the last snapshot."""
    *_, last = run_units(units, out, {"name": "trivial"}, **more)  # type: ignore[arg-type]
    return last


def results(out: Path) -> dict[str, str]:
    """What the units wrote, by key."""
    return {p.parent.name: p.read_text() for p in sorted(out.glob("units/*/result"))}


if __name__ == "__main__":  # python batch_units.py OUT COUNT JOBS SLEEP [ENGINE]
    place = Path(sys.argv[1])
    engine = sys.argv[5] if len(sys.argv) > 5 else "local"
    run_all(
        trivial_units(int(sys.argv[2]), place, float(sys.argv[4])), place,
        engine=engine, at_once=int(sys.argv[3]), slurm={"poll_s": 0.5},
    )  # fmt: skip

"""What a study costs beside its work: `python benchmarks/batch.py [UNITS] [AT_ONCE]`.

Trivial units (two shell commands) through the real local engine: seconds and processor seconds a
unit, the memory of the study process while it goes on, and the files that stay.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from batch_units import trivial_units

from endorecon.batch import run_units


def memory_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(count: int, at_once: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        said = set()
        seen = 0
        for snapshot in run_units(
            trivial_units(count, out), out, {"name": "trivial"}, at_once=at_once
        ):
            seen += len(snapshot.ended)
            mark = 10 * seen // count
            if mark not in said:
                said.add(mark)
                t = time.monotonic() - begun
                print(f"{seen:6d} units  {t:7.1f} s  {memory_mb():6.1f} MB", flush=True)
        wall = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        own = resource.getrusage(resource.RUSAGE_SELF)
        print(
            f"{count} units, {at_once} at a time: {wall / count:.2f} s a unit, "
            f"{used / count:.2f} processor s in its processes, "
            f"{(own.ru_utime + own.ru_stime) / count:.3f} in the study process; "
            f"{sum(1 for _ in out.rglob('*')) / count:.0f} files and folders a unit"
        )


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:]]
    main(*(numbers + [1000, 2][len(numbers) :]))

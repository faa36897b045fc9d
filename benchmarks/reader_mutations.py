"""Would the tests of the data set readers notice? `python benchmarks/reader_mutations.py`.

Each fault that readers of these data sets really have (ecosystem.md, section 3) is put into a copy
of the readers, one at a time, and tests/test_datasets.py runs on the copy: it must fail. Prints the
tests that noticed each; exit code 1 when one went by unnoticed. The working tree is not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
LAYOUTS, SETS, CHECK = "dataset_layouts.py", "datasets.py", "dataset_check.py"
FAULTS = (  # what, file, text, instead
    ("C3VD poses read row by row", LAYOUTS, "reshape(-1, 4, 4).transpose(0, 2, 1), file)",
     "reshape(-1, 4, 4), file)"),
    ("C3VD: the translation in the last row is let pass", SETS,
     "not np.allclose(poses[:, 3], [0, 0, 0, 1], atol=1e-5)", "False"),
    ("C3VD poses inverted", LAYOUTS,
     "return ds.rigid(np.array(rows).reshape(-1, 4, 4).transpose(0, 2, 1), file)",
     "return np.linalg.inv(ds.rigid(np.array(rows).reshape(-1, 4, 4).transpose(0, 2, 1), file))"),
    ("C3VD depth in cm", LAYOUTS, "depth_mm=100.0 / 65535.0", "depth_mm=10.0 / 65535.0"),
    ("C3VD depth in steps", LAYOUTS, "depth_mm=100.0 / 65535.0", "depth_mm=1.0"),
    ("C3VD depth of 256ths", LAYOUTS, "depth_mm=100.0 / 65535.0", "depth_mm=1.0 / 256.0"),
    ("C3VD lens a pinhole", SETS, '"OPENCV_FISHEYE", k,', '"PINHOLE", (),'),
    ("frames in the order of their letters (0, 1, 10, 11, 2)", SETS,
     "return tuple(int(t) if t.isdigit() else t.lower() for t in re.split(r\"(\\d+)\", path.name))",
     "return (path.name,)"),
    ("SCARED poses inverted", LAYOUTS, "inverse: bool = False", "inverse: bool = True"),
    ("SCARED poses transposed", LAYOUTS, 'f["camera-pose"] for f in frames], float).reshape(-1, 4, 4)',
     'f["camera-pose"] for f in frames], float).reshape(-1, 4, 4).transpose(0, 2, 1)'),
    ("SCARED depth is X, not Z", SETS, "data = data[..., 0]", "data = data[..., 2]"),
    ("SCARED's right eye taken for the left", SETS, "picture[: picture.shape[0] // 2]",
     "picture[picture.shape[0] // 2 :]"),
    ("SCARED, Hamlyn depth in m", SETS, "depth_mm: float = 1.0", "depth_mm: float = 1000.0"),
    ("OpenCV's pixel centres taken for ours", LAYOUTS, "fx, fy, cx + 0.5, cy + 0.5)",
     "fx, fy, cx, cy)"),
    ("SimCol3D depth of 100 mm", LAYOUTS, "depth_mm=200.0 / 65535.0", "depth_mm=100.0 / 65535.0"),
    ("SERV-CT depth in steps", LAYOUTS, "depth_mm=1.0 / 256.0,", "depth_mm=1.0,"),
    ("LLFF axes right, up for down, right", LAYOUTS, "m[:, :, 1], m[:, :, 0], -m[:, :, 2]",
     "m[:, :, 0], m[:, :, 1], -m[:, :, 2]"),
    ("EndoNeRF's still camera let pass", LAYOUTS, "if still", "if False"),
    ("Unity's left hand kept", LAYOUTS, "flip = np.diag([1.0, -1.0, 1.0])", "flip = np.eye(3)"),
    ("Unity's quaternion read w first", LAYOUTS, "row[[6, 3, 4, 5]]", "row[[3, 4, 5, 6]]"),
    ("inverse poses are not looked for", CHECK, "if inverse < SOUND", "if False"),
    ("wrong depth scales are not looked for", CHECK, "if other[best] < SOUND", "if False"),
)  # fmt: skip


def noticed_by(tree: Path) -> list[str]:
    """Names of the tests that fail on the copy."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_datasets.py"],
        cwd=tree, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tree)},
    )  # fmt: skip
    return re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", found.stdout, re.M)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("endorecon", "tests"):
            shutil.copytree(HERE / name, tree / name, symlinks=True)
        for name in ("viewer", "cuda", "configs", "pyproject.toml"):
            (tree / name).symlink_to(HERE / name)
        if wrong := noticed_by(tree):
            print("the tests fail without a fault:", wrong)
            return 1
        unnoticed = 0
        for what, name, text, instead in FAULTS:
            file = tree / "endorecon" / "io" / name
            sound = file.read_text("utf-8")
            assert sound.count(text) == 1, (what, sound.count(text))
            file.write_text(sound.replace(text, instead), "utf-8")
            tests = noticed_by(tree)
            file.write_text(sound, "utf-8")
            unnoticed += not tests
            print(
                f"{what}: {'NOT NOTICED' if not tests else f'{len(tests)}: {tests[0]}'}", flush=True
            )
        print(f"{len(FAULTS)} faults, {unnoticed} not noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())

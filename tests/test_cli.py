"""The command line: fast help, one sentence for each fault, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from endorecon import cli
from endorecon.config import Config
from endorecon.errors import UsageError


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from endorecon import cli; cli.main(['--help']);"
        "heavy = {'torch', 'cv2', 'open3d', 'pycolmap', 'pyvista', 'scipy', 'SimpleITK'};"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert "LOADED []" in done.stdout
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout
    assert "not for clinical use" in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("size", [9, 99999])  # what waits in a buffer until the end, and what not
def test_a_reader_that_leaves_is_no_bug(size: int, unbuffered: str) -> None:
    code = (
        "import sys; from endorecon import cli, commands; sys.stdin.readline();"
        f"commands.doctor = lambda args: print('x' * {size}) or 0;"
        "sys.exit(cli.main(['doctor']))"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    ) as program:  # fmt: skip
        assert program.stdin is not None and program.stdout is not None
        program.stdout.close()  # before the program is let on
        program.stdout = None
        _, said = program.communicate("go\n", timeout=300)
    assert said == "" and program.returncode == 141


@pytest.mark.parametrize("name", [n for n in cli.COMMANDS if n != "doctor"])
def test_each_command_explains_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"endorecon {name}" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fitt"]) == 2
    assert "did you mean fit?" in capsys.readouterr().err


def test_a_missing_video_is_one_sentence_and_exit_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(
        ["fit", str(tmp_path / "no.mp4"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    )
    assert code == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "does not exist" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_text_file_named_mp4_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.mp4").write_text("no video")
    code = cli.main(
        ["fit", str(tmp_path / "v.mp4"), "--out", str(tmp_path / "r"), "--device", "cpu"]
    )
    assert code == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_a_preset_with_a_wrong_key_names_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("loop:\n  tolerence: 0.1\n")
    with pytest.raises(UsageError, match=r"loop\.tolerance"):
        cli.config_of(str(tmp_path / "p.yaml"))
    (tmp_path / "q.yaml").write_text("loop: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UsageError, match="plain YAML"):
        cli.config_of(str(tmp_path / "q.yaml"))
    with pytest.raises(UsageError, match="cpu"):
        cli.config_of("nonsense")


def test_every_preset_of_the_package_is_valid_and_changes_something_or_is_the_default() -> None:
    assert cli.config_of("default") == Config()
    assert cli.config_of("cpu") != Config() != cli.config_of("accurate")


def test_cuda_asked_for_and_absent_is_an_environment_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    (tmp_path / "v.mp4").write_bytes(b"")
    assert cli.main(["fit", str(tmp_path / "v.mp4"), "--device", "cuda"]) == 7
    assert "endorecon doctor" in capsys.readouterr().err


def test_the_run_of_another_input_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("keep me")
    (tmp_path / "v.mp4").write_text("x")
    args = ["fit", str(tmp_path / "v.mp4"), "--out", str(tmp_path / "notes"), "--device", "cpu"]
    assert cli.main(args) == 3
    assert "not a run folder" in capsys.readouterr().err
    assert (tmp_path / "notes/mine.txt").read_text() == "keep me"

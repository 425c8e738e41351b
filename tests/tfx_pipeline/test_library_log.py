import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tfx_pipeline.library_log import library_log


def test_native_code_writes_to_the_file_and_the_run_before_is_kept(tmp_path):
    path = tmp_path / "folder" / "log.txt"
    for run in ("first", "second", "third"):
        with library_log(path) as terminal:
            os.write(2, run.encode())
            terminal.write("to the terminal\n")
    assert path.read_text() == "third"
    assert path.with_name("log.txt.1").read_text() == "second"
    assert sorted(file.name for file in path.parent.iterdir()) == ["log.txt", "log.txt.1"]


def test_an_error_says_where_to_look_and_standard_error_is_back(tmp_path, capfd):
    with pytest.raises(ValueError, match="broken") as caught, library_log(tmp_path / "log.txt"):
        raise ValueError("broken")
    assert str(tmp_path / "log.txt") in "".join(caught.value.__notes__)
    os.write(2, b"again")
    assert capfd.readouterr().err == "again"


def test_a_command_beside_a_running_one_is_refused_and_leaves_its_log_and_the_one_before(tmp_path):
    path = tmp_path / "log.txt"
    with library_log(path):
        os.write(2, b"before")
    with library_log(path):
        os.write(2, b"running ")
        for _ in range(3):
            with pytest.raises(RuntimeError, match="another command is running in") as caught, library_log(path):
                pass
            assert str(path) in str(caught.value)
            assert not hasattr(caught.value, "__notes__")
        os.write(2, b"on")
    assert path.read_text() == "running on"
    assert path.with_name("log.txt.1").read_text() == "before"


def test_a_killed_run_can_be_started_again_though_a_child_of_it_is_left(tmp_path):
    killed = (
        "import os, pathlib, signal, subprocess\n"
        "from tfx_pipeline.library_log import library_log\n"
        f"with library_log(pathlib.Path({str(tmp_path / 'log.txt')!r})):\n"
        "    print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "    os.write(2, b'until it was killed')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", killed], cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    try:
        with library_log(tmp_path / "log.txt"):
            os.write(2, b"again")
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)
    assert (tmp_path / "log.txt").read_text() == "again"
    assert (tmp_path / "log.txt.1").read_text() == "until it was killed"

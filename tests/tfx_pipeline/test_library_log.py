import os

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

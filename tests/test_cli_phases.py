"`recon_ad phases`: every notebook executed by itself, with the parameters that it declares; one that fails is one line."
import os
import signal
import subprocess
import sys
import time
from functools import partial

import nbformat
import psutil
import pytest

from recon_ad.cli import choose_notebooks, main, make_parser, run_papermill
from recon_ad.engines import ENGINES


def write_notebook(path, *sources, parameters=True):
    "A notebook whose first cell holds its parameters."
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if parameters: cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), path)
    return path


def printed(path):
    "All text that an executed notebook printed."
    return "".join(output.get("text", "") for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", []))


@pytest.fixture
def folder(tmp_path):
    "One phase that says what it was given, one that fails on two lines, one that declares nothing and one that is no notebook."
    (tmp_path / "phases").mkdir()
    write_notebook(tmp_path / "phases" / "01_says.ipynb", "smoke = False\nengine = 'serial'", "import os\nprint(smoke, engine, os.environ.get('RECON_AD_DATA'), os.getcwd())")
    write_notebook(tmp_path / "phases" / "02_fails.ipynb", "smoke = False", "raise ValueError('no luck,\\nnone at all')")
    write_notebook(tmp_path / "phases" / "03_plain.ipynb", "print('smoke' in globals())", parameters=False)
    (tmp_path / "phases" / "04_broken.ipynb").write_text("this is no JSON")
    return tmp_path / "phases"


def test_each_gets_what_it_declares_and_a_failure_stops_no_other(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()
    assert main(["phases", "--smoke", "--engine", "processes", "--data", "sets", "--out", "executed", "phases"]) == 1
    assert printed(tmp_path / "executed" / "01_says" / "01_says.ipynb") == f"True processes {tmp_path / 'sets'} {tmp_path}\n"
    assert printed(tmp_path / "executed" / "03_plain" / "03_plain.ipynb") == "False\n"
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("recon_ad:")]
    assert errors[0] == "recon_ad: 02_fails: ValueError: no luck, none at all"
    assert errors[1].startswith("recon_ad: 04_broken: ") and len(errors) == 2
    assert "Traceback" not in said.err
    assert "3/3" in said.err  # papermill's own bar: the parameters given are a cell too
    assert said.out.splitlines()[-1] == "2 of 4 failed: 02_fails, 04_broken"
    assert "=== 01_says\n=== 01_says: " in said.out


def test_only_some_with_their_own_values(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECON_AD_DATA", raising=False)
    assert main(["phases", "phases", "--only", "01", "--only", "03"]) == 0
    assert printed(tmp_path / "runs" / "01_says" / "01_says.ipynb") == f"False serial None {tmp_path}\n"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["01_says", "03_plain"]


@pytest.mark.parametrize("words, message", [
    (["--only", "07"], "starts with 07; there are 01_says, 02_fails, 03_plain, 04_broken"), (["--data", "nowhere"], "no folder nowhere"),
])
def test_a_wrong_word_is_one_line_and_runs_nothing(folder, tmp_path, capsys, words, message):
    assert main(["phases", str(folder), "--out", str(tmp_path / "runs"), *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("recon_ad: phases: ") and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    with pytest.raises(FileNotFoundError, match="no notebooks"): choose_notebooks(tmp_path / "nowhere")


def test_the_engines_are_those_of_the_library():
    "They are written out in the command, which is to start without PyTorch."
    for engine in ENGINES: assert make_parser().parse_args(["phases", "--engine", engine]).engine == engine
    with pytest.raises(SystemExit): make_parser().parse_args(["phases", "--engine", "magic"])


def test_a_kernel_that_dies_is_reported(tmp_path):
    notebook = write_notebook(tmp_path / "dies.ipynb", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    assert "died" in run_papermill(notebook, tmp_path / "runs" / "dies.ipynb", {})


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_ends_the_kernel_too(tmp_path):
    started = tmp_path / "started"
    write_notebook(tmp_path / "long.ipynb", f"import os, pathlib, time\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(600)")
    command = subprocess.Popen([sys.executable, "-c", "import sys; from recon_ad.cli import main; sys.exit(main())", "phases", str(tmp_path), "--out", str(tmp_path / "runs")], stderr=subprocess.PIPE,
                               preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))  # a command in the background may ignore it
    until = time.monotonic() + 60
    while not (started.exists() and started.read_text()) and time.monotonic() < until: time.sleep(0.1)
    kernel = int(started.read_text())
    command.send_signal(signal.SIGINT)
    assert b"recon_ad: interrupted" in command.communicate(timeout=60)[1] and command.returncode == 130
    while psutil.pid_exists(kernel) and psutil.Process(kernel).status() != psutil.STATUS_ZOMBIE and time.monotonic() < until: time.sleep(0.1)
    assert not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE

"Every phase runs from its first cell to its last, in smoke mode, the way `make phases` runs it."
import re
import shutil
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parent.parent
PHASES = sorted((ROOT / "nbs" / "phases").glob("*.ipynb"))
JUDGED = [path for path in PHASES if path.stem[:2] in ("01", "02", "03", "04")]  # they conclude by computed rows


def shown(cells):
    "What the cells show, as text."
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = ("text/markdown", "text/html", "text/plain")
    return "\n".join(output.get("text", "") + "\n".join(output.get("data", {}).get(kind, "") for kind in kinds) for output in outputs)


@pytest.mark.parametrize("path", PHASES, ids=lambda path: path.stem)
def test_a_phase_runs_in_smoke_mode(path, tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")  # a smoke run may not touch the real ones
    executed = papermill.execute_notebook(path, tmp_path / path.name, parameters={"smoke": True}, cwd=tmp_path, kernel_name="python3", progress_bar=False)
    assert all(cell.get("execution_count") for cell in executed.cells if cell.cell_type == "code" and cell.source.strip())
    assert nbformat.read(tmp_path / path.name, as_version=4).metadata.papermill.exception is None
    assert list((tmp_path / "runs" / path.stem).iterdir()), "its runs lie where it was started, at the root"
    if path not in JUDGED: return
    said = shown(executed.cells)
    assert "smoke: not judged" in said and "nothing is concluded" in said
    assert not re.search(r"<td>(held|refuted|undecided)</td>", said), "two steps on the strips decide nothing"


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: path.stem)
def test_a_phase_ends_in_rows_and_stored_runs_carry_their_version(path):
    "As committed: every expectation of the list has a row, the runs their version, and shortcuts no spread."
    notebook = nbformat.read(path, as_version=4)
    said = shown(notebook.cells)
    verdicts = re.findall(r"<td>(held|refuted|undecided)</td>", said)
    expected = next(cell.source for cell in notebook.cells if cell.source.startswith("## What we expect"))
    numbers = set(re.findall(r"^(\d)\. ", expected, re.M))
    assert numbers and set(re.findall(r"<th>(\d)\. ", said)) == numbers and len(verdicts) >= len(numbers)
    assert "of the library" in said and "smoke" not in said.lower()
    shortcuts = ("94.1", "88.2", "64.3", "77.6", "67.4")  # of the five sets, in percent: no seed moves them
    assert not [value for value in shortcuts if f"{value} ± 0.0" in said]


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: path.stem)
def test_code_of_a_phase_can_be_read(path):
    lines = [line for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert not [line for line in lines if len(line) > 100]


def test_results_and_runs_lie_at_the_root_where_a_phase_is_opened_in_its_folder(tmp_path):
    "JupyterLab starts a notebook in its own folder; `make phases`, above, in the root."
    shutil.copytree(ROOT / "results", tmp_path / "results")
    def stored(): return {path: path.read_bytes() for path in (tmp_path / "results").rglob("[!.]*") if path.is_file()}
    kept = stored()
    opened = tmp_path / "nbs" / "phases"
    opened.mkdir(parents=True)
    papermill.execute_notebook(ROOT / "nbs" / "phases" / "01_baseline.ipynb", tmp_path / "out.ipynb",
                               parameters={"smoke": True}, cwd=opened, kernel_name="python3", progress_bar=False)
    assert (tmp_path / "runs" / "01_baseline" / "smoke.jsonl").is_file()
    assert not list(opened.iterdir())
    assert stored() == kept


def test_the_kernel_is_this_environment(tmp_path):
    "A kernelspec of another environment would test another package."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys; print(sys.prefix)")], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(notebook, tmp_path / "where.ipynb")
    executed = papermill.execute_notebook(tmp_path / "where.ipynb", tmp_path / "out.ipynb", progress_bar=False)
    assert executed.cells[0].outputs[0].text.strip() == sys.prefix

"Every phase runs from its first cell to its last, in smoke mode, the way `make phases` runs it."
import shutil
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parent.parent
PHASES = sorted((ROOT / "nbs" / "phases").glob("*.ipynb"))


@pytest.mark.parametrize("path", PHASES, ids=lambda path: path.stem)
def test_a_phase_runs_in_smoke_mode(path, tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")  # a smoke run may not touch the real ones
    executed = papermill.execute_notebook(path, tmp_path / path.name, parameters={"smoke": True}, cwd=tmp_path, kernel_name="python3", progress_bar=False)
    assert all(cell.get("execution_count") for cell in executed.cells if cell.cell_type == "code" and cell.source.strip())
    assert nbformat.read(tmp_path / path.name, as_version=4).metadata.papermill.exception is None


def test_the_kernel_is_this_environment(tmp_path):
    "A kernelspec of another environment would test another package."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys; print(sys.prefix)")], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(notebook, tmp_path / "where.ipynb")
    executed = papermill.execute_notebook(tmp_path / "where.ipynb", tmp_path / "out.ipynb", progress_bar=False)
    assert executed.cells[0].outputs[0].text.strip() == sys.prefix

"`import recon_ad` is light: no plotting, no Jupyter, and little besides what its rooms stand on."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.stem for path in (ROOT / "recon_ad").glob("*.py") if not path.stem.startswith("_"))
HEAVY = ("matplotlib", "seaborn", "IPython", "ipykernel", "ipywidgets", "jupyterlab", "notebook", "nbdev", "papermill", "ray", "optuna", "tensorboard")
LIGHT = {"PIL", "fastcore", "filelock", "jaxtyping", "tifffile"}  # what the rooms may load besides what they stand on
DRAWING = ("plots", "explore", "cli")  # the rooms that may draw


def loaded_after(statement: str) -> set[str]:
    "The top-level packages that a fresh Python has loaded after a statement."
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def test_the_package_itself_loads_nothing_heavy():
    assert not loaded_after("import recon_ad") & {*HEAVY, "torch", "sklearn", "skimage"}


def test_no_room_but_the_drawing_ones_loads_plotting_or_jupyter():
    modules = [name for name in MODULES if name not in DRAWING]
    found = loaded_after("\n".join(f"import recon_ad.{name}" for name in modules)) & set(HEAVY)
    if found:  # name the room, at the price of a process each
        culprits = {name: sorted(loaded_after(f"import recon_ad.{name}") & set(HEAVY)) for name in modules}
        pytest.fail(f"these rooms load plotting or Jupyter: { {name: heavy for name, heavy in culprits.items() if heavy} }")


def test_a_folder_is_read_without_pytorch():
    heavy = {*HEAVY, "torch", "pandas", "sklearn", "skimage"}
    assert not loaded_after("from recon_ad.data import read_image, hold_out; from recon_ad.layouts import check_dataset, list_samples") & {*heavy, "scipy"}


def test_check_and_help_load_no_pytorch(tmp_path):
    "Good images and defective ones, so that every part of the check is carried out."
    for number, kind in enumerate([*["train/good"] * 12, *["test/good", "test/bent"] * 4]):
        image = np.random.default_rng(number).integers(0, 256, (48, 64), dtype=np.uint8)
        (tmp_path / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / kind / f"{number:03}.png")
        if kind != "test/bent": continue
        (tmp_path / "ground_truth" / "bent").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(48, 64, dtype=np.uint8) * 255).save(tmp_path / "ground_truth" / "bent" / f"{number:03}_mask.png")
    run = f"from recon_ad.cli import main; code = main(['check', {str(tmp_path)!r}, '--size', '40x56']); assert code == 0, code"
    heavy = {*HEAVY, "torch", "pandas", "sklearn", "skimage"}
    assert not loaded_after(run) & heavy
    assert not loaded_after("from recon_ad.cli import make_parser; make_parser().format_help()") & {*heavy, "numpy"}


def test_a_detectors_file_is_checked_without_pytorchs_tracer():
    "It would take longer than all the rest of a prediction."
    asked = "from recon_ad.detector import expected_tensors; from recon_ad.settings import DetectorSettings; expected_tensors(DetectorSettings())"
    assert not loaded_after(asked) & {*HEAVY, "sympy"}


def test_the_package_alone_loads_nothing_but_itself():
    assert loaded_after("import recon_ad") - loaded_after("pass") == {"recon_ad"}


def test_the_rooms_load_little_besides_what_they_stand_on():
    "Packages, not seconds: a busy machine loads the same ones."
    ground = "import torch, numpy, pandas, sklearn.metrics, skimage.measure, scipy.stats, safetensors.torch, tqdm.auto"
    rooms = "\n".join(f"import recon_ad.{name}" for name in MODULES if name not in DRAWING)
    more = loaded_after(f"{ground}\n{rooms}") - loaded_after(ground) - set(sys.stdlib_module_names)
    assert more - LIGHT == {"recon_ad"}


def test_the_engines_import_computes_nothing_that_starts_threads():
    "Runs are forked from a process that has imported them: threads of a computation would be missing in the copy."
    code = "import os; import recon_ad.engines; print(len(os.listdir('/proc/self/task')))"
    if sys.platform != "linux": pytest.skip("nothing is forked elsewhere")
    quiet = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # BLAS begins its threads at once, and is made for forks
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | quiet)
    assert int(found.stdout.splitlines()[-1]) == 1

"Twenty runs by each engine that takes several at a time: a worker is killed in the middle, and nothing else is lost."
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from recon_ad.engines import run_missing
from recon_ad.experiment import Experiment, grid
from recon_ad.results import failures, load_lines

STUDY = grid(Experiment(), seed=range(20))


def tiny(experiment, folder):
    "A run of no work that leaves a file; the tenth kills its process the first time."
    Path(folder, f"{experiment.seed}-{os.getpid()}").touch()
    once = Path(folder, "killed")
    if experiment.seed == 9 and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    trace = (torch.ones(512, 512) @ torch.ones(512, 512)).trace()  # large enough for all threads
    return {"metrics": {"number": experiment.seed, "trace": float(trace), "variable": os.environ.get("TOLD", "")}}


@pytest.fixture(params=["processes", "ray"])
def engine(request):
    "The engine, ready."
    if request.param == "processes":
        yield request.param
        return
    ray = pytest.importorskip("ray")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    told = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=told)
    yield request.param
    ray.shutdown()


def test_a_killed_worker_costs_its_own_run_and_no_other(engine, tmp_path):
    path, folder = tmp_path / "tiny.jsonl", tmp_path / "log"
    folder.mkdir()
    run_missing(STUDY, path, engine, tiny, workers=2, threads=2, progress=False, folder=str(folder))
    done = {line["metrics"]["number"] for line in load_lines(path) if line["metrics"]}
    assert done == set(range(20)) - {9}
    assert failures(path)["seed"].tolist() == [9]
    before = {one.name for one in folder.iterdir()}
    run_missing(STUDY, path, engine, tiny, workers=2, threads=2, progress=False, folder=str(folder))
    assert {line["metrics"]["number"] for line in load_lines(path)} == set(range(20))
    assert {line["metrics"]["trace"] for line in load_lines(path)} == {512.0**2}
    assert failures(path).empty
    assert {one.name.split("-")[0] for one in folder.iterdir() if one.name not in before} == {"9"}


def test_a_run_sees_the_variables_as_they_are_when_it_is_begun(tmp_path, monkeypatch):
    "Also where its process is a copy of one that began earlier."
    for told in ("first", "second"):
        monkeypatch.setenv("TOLD", told)
        (tmp_path / told).mkdir()
        how = {"workers": 1, "progress": False, "folder": str(tmp_path / told)}
        result, = run_missing(STUDY[:1], tmp_path / f"{told}.jsonl", "processes", tiny, **how)
        assert result["metrics"]["variable"] == told


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every run is spawned")
def test_on_linux_runs_are_copies_that_need_no_import(tmp_path):
    "They have one parent, which is not this process: that one has computed."
    study = STUDY[:3]
    results = run_missing(study, tmp_path / "a.jsonl", "processes", parent, workers=1, progress=False)
    parents = {result["metrics"]["parent"] for result in results}
    assert len(parents) == 1 and os.getpid() not in parents
    assert all(result["metrics"]["loaded"] for result in results)


def parent(experiment):
    "Which process this one is a copy of, and whether it came with the package loaded."
    inherited = Path(f"/proc/{os.getppid()}/maps").read_text()
    return {"metrics": {"parent": os.getppid(), "loaded": "libtorch" in inherited}}

"""What an engine costs a run: twenty runs of no work, one of them killed, and what the next call has to make up for.

    python benchmarks/run.py --only tiny_runs        # with Ray where it is installed
"""
import importlib.util
import os
import signal
import tempfile
import time
from pathlib import Path

from timing import row


def tiny(experiment, folder: str) -> dict:
    "A run of no work; the tenth kills its own process the first time."
    once = Path(folder) / "killed"
    if experiment.seed == 9 and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"metrics": {"number": experiment.seed, "at": time.time()}}


def with_engine(engine: str) -> list[dict]:
    "Seconds a run after the first two, and that nothing was lost."
    import tiny_runs
    from recon_ad.engines import run_missing
    from recon_ad.experiment import Experiment, grid
    from recon_ad.results import failures, load_lines
    study = grid(Experiment(), seed=range(20))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.jsonl"
        again = lambda: run_missing(study, path, engine, tiny_runs.tiny, workers=2, progress=False, folder=folder)
        begin = time.time()
        again()
        ended = sorted(line["metrics"]["at"] for line in load_lines(path) if line["metrics"])
        assert len(ended) == 19 and len(failures(path)) == 1, f"{len(ended)} runs were finished"
        second = time.time()
        again()
        lines = load_lines(path)
        assert {line["metrics"]["number"] for line in lines} == set(range(20)), "a run is missing"
        assert sum(line["metrics"]["at"] > second for line in lines) == 1, "a finished run was carried out again"
    each, first = (ended[-1] - ended[1]) / (len(ended) - 2), ended[0] - begin
    return [row(f"engine {engine}: seconds a run after the first", each, "seconds", 18, "lower", 3.0, first=round(first, 1))]


def measure(quick: bool) -> list[dict]:
    "The engines that are here."
    engines = ["processes"] + (["ray"] if importlib.util.find_spec("ray") else [])
    return [figure for engine in engines for figure in with_engine(engine)]

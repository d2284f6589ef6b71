"Experiments: one key a run, engines that agree, failures and interrupts that cost one run and no more."
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon_ad.cli import make_parser, settings_asked
from recon_ad.detector import Detector
from recon_ad.engines import ENGINES, carry_out, lines_by_key, run_missing
from recon_ad.experiment import Experiment, find_data, grid
from recon_ad.results import BEFORE, experiment_key, failures, load_lines, read_results, store_result
from recon_ad.run import run_experiment
from recon_ad.settings import DetectorSettings

SMALL = Experiment(data="strips", size=(32, 192), architecture_options={"width": 4.0}, steps=4, batch_size=2, damage="texture", crop=None, top_k=9, seed=3)


# Runs that a new process can import: pytest puts this folder on its path.
def draw(experiment, log=None):
    "Figures that come from PyTorch's and from a stated generator."
    if log: Path(log, f"{experiment.loss}-{experiment.seed}-{os.getpid()}").touch()
    return {"metrics": {"torch": torch.rand(1).item(), "stated": np.random.default_rng(experiment.seed).random(), "score": {"image_auroc": 0.5}}}


def fail_sometimes(experiment, good=()):
    if experiment.seed not in good: raise RuntimeError(f"no luck with seed {experiment.seed}")
    return draw(experiment)


def die_or_fail(experiment):
    if experiment.seed == 1: os.kill(os.getpid(), signal.SIGKILL)
    if experiment.seed == 2: raise RuntimeError("no luck")
    return draw(experiment)


def take_long(experiment, log):
    Path(log, f"start-{experiment.seed}").touch()
    time.sleep(0.2 if experiment.seed < 2 else 60)
    return draw(experiment)


def group_of(pid):
    try: return os.getpgid(pid)
    except ProcessLookupError: return None


def left_behind(group: int, patience: float = 10.0) -> list[dict]:
    "Processes of the group that still live after a while; one that only waits to be collected counts as ended."
    until = time.monotonic() + patience
    while True:
        alive = [process.info for process in psutil.process_iter(["pid", "status", "cmdline"])
                 if process.info["status"] != psutil.STATUS_ZOMBIE and group_of(process.pid) == group]
        if not alive or time.monotonic() > until: return alive
        time.sleep(0.2)


STUDY = grid(Experiment(), loss=["mse", "ssim"], seed=range(2))


def test_equal_runs_are_equal_values():
    spelled = Experiment(size=[np.int64(176), 976], loss="mse+ssim", damage_probability=np.float64(0.5), seed=np.int32(0), architecture_options={})
    assert spelled == Experiment() and hash(spelled) == hash(Experiment()) and spelled.key == Experiment().key
    assert Experiment(**json.loads(json.dumps(Experiment(crop=(64, 64), architecture_options={"width": 8}).as_dict()))) == Experiment(crop=[64, 64], architecture_options=[("width", 8)])


def test_every_field_is_in_the_key():
    other = dict(data="grid", size=(64, 64), resize="pad", architecture="unet", architecture_options={"width": 8}, loss="l1", damage="texture", damage_probability=0.1, foreground="object", steps=7,
                 batch_size=3, crop=(64, 64), flips="h", rotation=1.0, scale=0.01, shift=0.03, learning_rate=0.1, weight_decay=0.5, warm_up=0.2, clip=2.0, head_weight=0.5,
                 precision="float32", held_out_share=0.5, score="latent", sigma=1.0, per_pixel=False, top_k=9, validation_damage="rectangles", seed=9,
                 false_alarm_rate=0.1, light=0.3, marking="dice", marking_weight=1.0)
    base = Experiment(score="residual")  # which every architecture can give
    varied = {name: dataclasses.replace(base, **{name: value}) for name, value in other.items()}
    assert len({base.key, *(experiment.key for experiment in varied.values())}) == len(other) + 1
    assert len({base.name, *(experiment.name for experiment in varied.values())}) == len(other) + 1
    assert set(other) == {field.name for field in dataclasses.fields(Experiment)}


def test_python_command_line_and_experiments_have_one_default():
    by_command = settings_asked(make_parser().parse_args(["train", "parts", "parts.safetensors"]))
    by_experiment = {field.name: getattr(Experiment(), field.name) for field in dataclasses.fields(DetectorSettings)}
    assert Detector(device="cpu").settings == by_command == DetectorSettings(**by_experiment)


@pytest.mark.parametrize("wrong, message", [
    (dict(steps=0), "steps"), (dict(seed=1.5), "seed must be a whole number"), (dict(seed=True), "seed"), (dict(size=(0, 5)), "size"), (dict(size=256), "size"), (dict(resize="squash"), "stretch"),
    (dict(loss="mse + sim"), "sim"), (dict(damage="hoels"), "hoels"), (dict(architecture="resnet"), "autoencoder"), (dict(held_out_share=0.0), "held_out_share"), (dict(damage_probability=2.0), "probability"),
    (dict(crop=(500, 500)), "crop"), (dict(flips="x"), "flips"), (dict(learning_rate=float("nan")), "learning_rate"), (dict(foreground="yes"), "'auto' or 'object' or 'texture'"), (dict(score="segmentation"), "head_width"), (dict(score="latnet"), "latnet"), (dict(validation_damage="holez"), "holez"), (dict(top_k=0), "top_k"), (dict(architecture="unet"), "marking"), (dict(precision="float8"), "precision"),
])
def test_a_wrong_declaration_is_refused_before_any_run(wrong, message):
    with pytest.raises(ValueError, match=message): Experiment(**wrong)


def test_a_grid_is_every_combination_once():
    study = grid(Experiment(), loss=["mse", "ssim", "mse"], size=(64, 64), seed=range(3), damage=["none", "texture"])
    assert len(study) == len(set(study)) == 12
    assert {experiment.size for experiment in study} == {(64, 64)}
    with pytest.raises(ValueError, match="no field los; there are steps, batch_size"): grid(Experiment(), los=["mse"])


@given(order=st.permutations(range(4)))
@settings(max_examples=8, deadline=None)
def test_order_changes_no_number_and_no_byte_of_the_figures(order, tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    forward, shuffled = folder / "forward.jsonl", folder / "shuffled.jsonl"
    run_missing(STUDY, forward, run=draw, progress=False)
    torch.rand(7)  # whatever ran before
    run_missing([STUDY[number] for number in order], shuffled, run=draw, progress=False)
    assert [(line["experiment"], line["metrics"]) for line in load_lines(forward)] == [(line["experiment"], line["metrics"]) for line in load_lines(shuffled)]


def test_finished_runs_are_not_run_again(tmp_path):
    path, log = tmp_path / "phase.jsonl", tmp_path / "log"
    log.mkdir()
    run_missing(STUDY[:2], path, run=draw, progress=False, log=str(log))
    before = path.read_bytes()
    run_missing(STUDY[:2], path, run=draw, progress=False, log=str(log))
    assert len(list(log.iterdir())) == 2 and path.read_bytes() == before
    results = run_missing(STUDY[::-1], path, run=draw, progress=False, log=str(log))
    assert len(list(log.iterdir())) == 4 and [result["experiment"] for result in results] == [experiment.as_dict() for experiment in STUDY[::-1]]


def test_a_line_of_an_older_version_is_found_under_its_names_of_today(tmp_path):
    path, wanted = tmp_path / "phase.jsonl", Experiment(seed=5, damage="none", architecture="autoencoder", score="residual + mahalanobis", **BEFORE)
    before = {"resize": "fit", "per_pixel": "places", "top_k": "top", "validation_damage": "exam"}
    old = {before.get(name, name): value for name, value in wanted.as_dict().items() if name not in BEFORE}
    old |= {"damage": "", "score": "residual + normality"}
    path.write_text(json.dumps({"experiment": old, "metrics": {"normality": {"aupro": 0.5}}, "context": {"chosen": "normality"}}) + "\n")
    assert wanted.key in lines_by_key(path)
    result, = run_missing([wanted], path, run=fail_sometimes, progress=False)
    assert result["metrics"] == {"mahalanobis": {"aupro": 0.5}} and result["context"]["chosen"] == "mahalanobis"


def test_every_stored_result_is_a_run_that_can_be_declared():
    for path in sorted(Path(__file__).parents[1].glob("results/0[1-5]_*.jsonl")):
        for line in load_lines(path):
            if "latent_0" in line["experiment"]["score"]: continue  # views that a notebook adds
            assert Experiment(**line["experiment"]).as_dict() == line["experiment"], path.name


def test_failures_are_recorded_and_tried_again(tmp_path):
    path, study = tmp_path / "phase.jsonl", grid(Experiment(), seed=range(3))
    run_missing(study, path, run=fail_sometimes, progress=False, good=(0, 2))
    failed = failures(path)
    assert failed["seed"].tolist() == [1] and failed["error"].tolist() == ["RuntimeError: no luck with seed 1"]
    assert "test_experiment.py" in next(line for line in load_lines(path) if "error" in line["context"])["context"]["where"]
    run_missing(study, path, run=fail_sometimes, progress=False, good=(1,))
    assert failures(path).empty and len(read_results(path)) == 3


def test_engines_agree(tmp_path):
    figures = {}
    for engine in ("serial", "processes"):
        run_missing(STUDY[:2], tmp_path / f"{engine}.jsonl", engine, draw, workers=2, progress=False)
        figures[engine] = [(line["experiment"], line["metrics"]) for line in load_lines(tmp_path / f"{engine}.jsonl")]
    assert figures["serial"] == figures["processes"]


def test_a_process_that_is_killed_or_fails_is_one_failed_run(tmp_path):
    path = tmp_path / "phase.jsonl"
    run_missing(grid(Experiment(), seed=range(4)), path, "processes", die_or_fail, workers=2, progress=False)
    assert read_results(path)["seed"].tolist() == [0, 3]
    failed = failures(path).set_index("seed")["error"]
    assert "exit code -9" in failed[1] and failed[2] == "RuntimeError: no luck"


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_an_interrupt_loses_the_run_in_hand_only(tmp_path, engine):
    "Ctrl-C reaches the whole group of processes, as from a terminal."
    path = tmp_path / "phase.jsonl"
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_experiment import take_long
        from recon_ad.engines import run_missing
        from recon_ad.experiment import Experiment, grid
        if __name__ == "__main__":
            run_missing(grid(Experiment(), seed=range(4)), {str(path)!r}, {engine!r}, take_long, workers=1, progress=False, log={str(tmp_path)!r})
    """))
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True,
                               preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))  # a command in the background may ignore it
    until = time.monotonic() + 120
    while not (tmp_path / "start-2").exists():
        assert process.poll() is None and time.monotonic() < until, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in said and not (tmp_path / "start-3").exists()
    assert read_results(path)["seed"].tolist() == [0, 1] and failures(path).empty
    assert not left_behind(process.pid)


def test_a_second_writer_shares_the_work(tmp_path):
    "What another one has finished since the start is not run again."
    path, ran = tmp_path / "phase.jsonl", []
    def run(experiment):
        ran.append(experiment)
        if len(ran) == 1: store_result(path, carry_out(draw, STUDY[2]))
        return draw(experiment)
    results = run_missing(STUDY, path, run=run, progress=False)
    assert len(results) == 4 and STUDY[2] not in ran


def test_threads_are_as_stated_and_put_back(tmp_path):
    before = torch.get_num_threads()
    def run(experiment): return {"metrics": {"threads": torch.get_num_threads()}}
    assert run_missing([Experiment()], tmp_path / "a.jsonl", run=run, threads=1, progress=False)[0]["metrics"] == {"threads": 1}
    assert torch.get_num_threads() == before


def test_the_context_says_what_made_the_number():
    context = carry_out(draw, Experiment())["context"]
    assert context["seconds"] >= 0 and context["threads"] >= 1 and set(context["versions"]) == {"python", "recon_ad", "torch", "numpy"}
    assert str(Path.home()) not in json.dumps(context)


def test_data_is_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "mvtec" / "grid").mkdir(parents=True)
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("RECON_AD_DATA", str(tmp_path))
    assert find_data("grid") == tmp_path / "mvtec" / "grid" and find_data("own") == tmp_path / "own"
    with pytest.raises(FileNotFoundError, match="sought at"): find_data("pill")
    monkeypatch.delenv("RECON_AD_DATA")
    with pytest.raises(FileNotFoundError, match="RECON_AD_DATA"): find_data("grid")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_remedy_is_named(tmp_path):
    with pytest.raises(ImportError, match=r"recon_ad\[ray\]"): run_missing(STUDY, tmp_path / "a.jsonl", "ray", draw, progress=False)
    assert "ray" not in sys.modules


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs recon_ad[ray]")
def test_a_local_ray_cluster_agrees_and_survives_failures(tmp_path):
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}})
    try:
        run_missing(STUDY, tmp_path / "ray.jsonl", "ray", draw, progress=False)
        run_missing(STUDY, tmp_path / "serial.jsonl", "serial", draw, progress=False)
        assert [line["metrics"] for line in load_lines(tmp_path / "ray.jsonl")] == [line["metrics"] for line in load_lines(tmp_path / "serial.jsonl")]
        run_missing(grid(Experiment(), seed=range(3)), tmp_path / "dies.jsonl", "ray", die_or_fail, progress=False)
        assert read_results(tmp_path / "dies.jsonl")["seed"].tolist() == [0] and failures(tmp_path / "dies.jsonl")["seed"].tolist() == [1, 2]
    finally: ray.shutdown()


def test_a_real_run_can_be_repeated_and_leaves_its_pictures(tmp_path):
    first, = run_missing([SMALL], tmp_path / "a.jsonl", progress=False, runs=str(tmp_path / "runs"))
    again, = run_missing([SMALL], tmp_path / "b.jsonl", progress=False)
    assert "error" not in first["context"], first["context"]
    assert first["metrics"] == again["metrics"]
    assert {"psnr", "normal_ssim", "copy_ratio", "fused", "chosen", "residual", "residual_raw", "latent"} <= set(first["metrics"])
    for score in ("fused", "chosen", "latent", "latent_raw"):
        assert {"image_auroc", "pixel_auroc", "pixel_ap", "aupro"} <= set(first["metrics"][score])
    assert "damage_aupro" in first["metrics"]["fused"] and "damage_aupro" in first["metrics"]["chosen"]
    assert first["metrics"]["fused"]["by_defect"] and "by_defect" not in first["metrics"]["latent_raw"]
    folder = tmp_path / "runs" / SMALL.name
    held_out = (folder / "held_out.txt").read_text().split()
    assert len(held_out) == first["context"]["images"]["held_out"] and (folder / "history.csv").exists()
    assert sorted(path.name for path in (folder / "heatmaps").iterdir()) == ["false_alarms.png", "misses.png"]
    line = (tmp_path / "a.jsonl").read_text()
    assert len(line) < 20_000 and str(tmp_path) not in line and str(Path.home()) not in line


def test_every_engine_has_one_contract():
    assert list(ENGINES) == ["serial", "processes", "ray"]
    assert experiment_key(Experiment().as_dict()) == Experiment().key

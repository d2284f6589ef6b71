"Sweeps: judged on held-out damage alone, resumed where they stopped, one failed trial for a failed run."
import dataclasses
import subprocess
import sys

import optuna
import pandas as pd
import pytest

from recon_ad.engines import run_missing
from recon_ad.experiment import Experiment
from recon_ad.run import run_experiment
from recon_ad.results import failures, load_lines, read_results
from recon_ad.strips import make_strip_category
from recon_ad.sweep import damage_metrics, selection_score_of, open_study, sweep, sweep_table

BASE = Experiment(steps=4, damage="texture")


def propose(trial):
    return {"loss": f"mse + {trial.suggest_float('ssim', 0.1, 10, log=True):.3g}*ssim", "sigma": trial.suggest_float("sigma", 1.0, 8.0)}


class Fake:
    "A run that takes no time; counts its calls."
    def __init__(self, test=lambda experiment: 0.5, stop_at=None, fails=lambda experiment: False):
        self.test, self.stop_at, self.fails, self.seen = test, stop_at, fails, []
        self.__name__ = "fake"

    def __call__(self, experiment):
        self.seen.append(experiment)
        if len(self.seen) == self.stop_at: raise KeyboardInterrupt
        if self.fails(experiment): raise RuntimeError("out of memory")
        mark = 1 - abs(experiment.sigma - 4) / 10
        return {"metrics": {score: {"image_auroc": self.test(experiment), "aupro": self.test(experiment), "damage_auroc": mark, "damage_aupro": mark - 0.1} for score in ("fused", "chosen")}}


def parameters(study): return [trial.params for trial in study.trials]


def run(path, **options): return sweep(BASE, propose, path, **{"trials": 15, "run": Fake(), "progress": False} | options)


@pytest.mark.parametrize("stop_at", [1, 7, 14])
def test_a_resumed_sweep_is_the_unbroken_one(tmp_path, stop_at):
    whole, runner = run(tmp_path / "whole" / "s.jsonl"), Fake(stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt): run(tmp_path / "parts" / "s.jsonl", run=runner)
    parts = run(tmp_path / "parts" / "s.jsonl", run=runner)
    pd.testing.assert_frame_equal(sweep_table(parts), sweep_table(whole))
    assert len(runner.seen) == 16 and len(set(runner.seen)) == 15  # the interrupted one twice
    assert load_lines(tmp_path / "parts" / "s.jsonl")[0]["experiment"] == load_lines(tmp_path / "whole" / "s.jsonl")[0]["experiment"]


def test_trials_count_in_all(tmp_path):
    runner = Fake()
    for trials, wanted in ((5, 5), (5, 5), (3, 5), (12, 12)): assert len(run(tmp_path / "s.jsonl", run=runner, trials=trials).trials) == wanted
    assert len(runner.seen) == 12 and parameters(run(tmp_path / "other" / "s.jsonl", trials=12)) == parameters(open_study(BASE, tmp_path / "s.jsonl"))


def test_equal_seed_equal_proposals_and_no_trial_twice(tmp_path):
    first, second, other = (run(tmp_path / str(number) / "s.jsonl", seed=seed) for number, seed in enumerate((3, 3, 4)))
    assert parameters(first) == parameters(second) != parameters(other)
    assert len({trial.params["ssim"] for trial in first.trials}) == 15


def test_the_criterion_does_not_see_the_test_figures(tmp_path):
    "Whatever the test set says, the same trials in the same order with the same marks."
    tables = [sweep_table(run(tmp_path / str(number) / "s.jsonl", run=Fake(test))) for number, test in enumerate((lambda e: 0.5, lambda e: e.sigma / 8, lambda e: 1 - e.sigma / 8))]
    for table in tables[1:]: pd.testing.assert_frame_equal(tables[0], table)
    assert read_results(tmp_path / "1" / "s.jsonl")["fused.image_auroc"].nunique() == 15  # they are stored all the same
    given = []
    run(tmp_path / "3" / "s.jsonl", trials=1, measure=lambda figures: given.append(figures) or 1.0)
    assert [set(figures) for figures in given[0].values()] == [{"damage_auroc", "damage_aupro"}] * 2


def test_a_failed_run_is_a_failed_trial(tmp_path):
    study = run(tmp_path / "s.jsonl", run=Fake(fails=lambda experiment: experiment.sigma > 4))
    table = sweep_table(study)
    failed = table[table.state == "fail"]
    assert len(table) == 15 and 0 < len(failed) < 15 and (failed.sigma > 4).all() and set(failed.error) == {"RuntimeError: out of memory"}
    assert (table.index[table.state == "fail"] >= (table.state == "complete").sum()).all()  # below all others
    assert table.criterion.dropna().is_monotonic_decreasing and study.best_value == table.criterion[0]
    assert len(failures(tmp_path / "s.jsonl")) == len(failed)


@pytest.mark.parametrize("fields, message", [({"loss": "mse + beauty"}, "beauty"), ({"los": "mse"}, "no field los"), ({"steps": 0}, "steps"), ({"validation_damage": "rectangles"}, "validation itself"), ({"seed": 1}, "validation itself"), ("mse", "dict of fields")])
def test_an_invalid_proposal_is_a_failed_trial(tmp_path, fields, message):
    def sometimes(trial): return fields if trial.number == 1 else propose(trial)
    runner = Fake()
    table = sweep_table(sweep(BASE, sometimes, tmp_path / "s.jsonl", trials=4, run=runner, progress=False))
    assert list(table.state) == ["complete"] * 3 + ["fail"] and table.trial[3] == 1 and message in table.error[3] and len(runner.seen) == 3


def test_a_stored_experiment_is_not_run_again(tmp_path):
    runner, path = Fake(), tmp_path / "s.jsonl"
    run_missing([dataclasses.replace(BASE, loss="mse")], path, run=runner, progress=False)
    study = sweep(BASE, lambda trial: {"loss": trial.suggest_categorical("loss", ["mse", "ssim"])}, path, trials=8, run=runner, progress=False)
    assert len(study.trials) == 8 and sorted(experiment.loss for experiment in runner.seen) == ["mse", "ssim"]
    (tmp_path / "s.study").unlink()  # the memory is lost, the results are not
    sweep(BASE, lambda trial: {"loss": trial.suggest_categorical("loss", ["mse", "ssim"])}, path, trials=8, run=runner, progress=False)
    assert len(runner.seen) == 2


def test_a_criterion_that_is_no_number_or_asks_for_what_is_not_there(tmp_path):
    table = sweep_table(run(tmp_path / "nan" / "s.jsonl", trials=2, measure=lambda figures: float("nan")))
    assert list(table.state) == ["fail"] * 2 and set(table.error) == {"the criterion is not a number"}
    runner = Fake()
    with pytest.raises(ValueError, match="there are fused, chosen"): run(tmp_path / "s.jsonl", run=runner, trials=3, measure=lambda figures: selection_score_of(figures, "latent"))
    run(tmp_path / "s.jsonl", run=runner, trials=3)  # mended: nothing that was trained is lost
    assert len(runner.seen) == 3


def test_another_base_is_refused_and_a_database_will_do(tmp_path):
    database = f"sqlite:///{tmp_path / 'sweeps.db'}"
    run(tmp_path / "s.jsonl", storage=database, trials=2)
    assert len(run(tmp_path / "s.jsonl", storage=database, trials=3).trials) == 3 and not (tmp_path / "s.study").exists()
    with pytest.raises(ValueError, match="another experiment"): sweep(dataclasses.replace(BASE, steps=5), propose, tmp_path / "s.jsonl", storage=database, run=Fake(), progress=False)


def test_it_says_nothing_and_changes_no_setting_of_optuna(tmp_path, capfd):
    before = optuna.logging.get_verbosity()
    run(tmp_path / "s.jsonl", trials=12)
    said = capfd.readouterr()
    assert said.out == said.err == "" and optuna.logging.get_verbosity() == before


def test_without_optuna_it_can_be_imported():
    code = "import sys; sys.modules['optuna'] = None; from recon_ad.sweep import sweep; from recon_ad.experiment import Experiment; sweep(Experiment(), dict, 'never.jsonl')"
    error = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip().splitlines()[-1]
    assert error == "ImportError: sweep: Optuna is not installed here: pip install 'recon_ad[sweep]'"


def test_a_real_run_has_what_a_sweep_is_judged_by(tmp_path):
    make_strip_category(tmp_path / "tiny", n_train=12, n_good=2, n_defect=2)
    tiny = Experiment(data="tiny", size=(32, 192), architecture_options={"width": 4.0}, steps=2, batch_size=2, damage="texture")
    study = sweep(tiny, lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)}, tmp_path / "s.jsonl", trials=1, run=run_experiment, progress=False, data_root=tmp_path)
    figures = damage_metrics(load_lines(tmp_path / "s.jsonl")[0]["metrics"])
    assert study.best_value == selection_score_of(figures) and selection_score_of(figures, "chosen") >= study.best_value
    assert Experiment(**study.best_trial.user_attrs["experiment"]).learning_rate == study.best_params["learning_rate"]

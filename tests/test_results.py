"Results: whole files under writers that die or meet, tables that refuse to mix, tests of significance against SciPy's."
import functools
import json
import math
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from recon_ad.results import (
    bootstrap_images, by_score, comparison_table, experiment_key, failures, load_lines, mean_and_spread, paired_test,
    plain, read_published, read_results, sign_flip_p_value, store_history, store_result, write_text,
)

PUBLISHED = Path(__file__).parent.parent / "results" / "published.csv"


def line(seed=0, data="grid", loss="mse", value=0.9, **more):
    return {"experiment": {"data": data, "loss": loss, "seed": seed} | more, "metrics": {"residual": {"image_auroc": value}}, "context": {}}


def write_many(path, first, count):
    for seed in range(first, first + count): store_result(path, line(seed, value=seed / 1000))


@pytest.mark.parametrize("methods", [("spawn", "spawn")], ids=["two writers"])
def test_writers_that_meet_lose_nothing(tmp_path, methods):
    path = tmp_path / "phase.jsonl"
    writers = [multiprocessing.get_context(method).Process(target=write_many, args=(path, 20 * number, 20)) for number, method in enumerate(methods)]
    for writer in writers: writer.start()
    for writer in writers: writer.join()
    assert [writer.exitcode for writer in writers] == [0] * len(writers)
    assert sorted(result["experiment"]["seed"] for result in load_lines(path)) == list(range(20 * len(writers)))
    keys = [experiment_key(result["experiment"]) for result in load_lines(path)]
    assert keys == sorted(keys)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".jsonl") and name != path.name]


def test_a_writer_that_is_killed_leaves_a_whole_file_and_no_lock(tmp_path):
    path = tmp_path / "phase.jsonl"
    code = textwrap.dedent(f"""
        from recon_ad.results import store_result
        seed = 0
        while True:
            store_result({str(path)!r}, {{"experiment": {{"seed": seed}}, "metrics": {{"value": 0.5}}, "context": {{"padding": "x" * 20_000}}}})
            seed += 1
    """)
    writer = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not (path.exists() and len(load_lines(path)) >= 20):
        assert writer.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    before = load_lines(path)  # whole: every line is JSON
    store_result(path, line(), timeout=5.0)  # the lock went with its holder
    assert len(load_lines(path)) == len(before) + 1


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"): write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_what_is_written_can_be_read_by_others_where_the_umask_lets_them(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        paths = store_result(tmp_path / "phase.jsonl", line()), store_history(tmp_path / "run", [{"step": 1, "mse": 0.5}])
    finally: os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [mode, mode]


def test_a_link_to_results_stays_a_link(tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "phase.jsonl")
    store_result(tmp_path / "link.jsonl", line())
    assert (tmp_path / "link.jsonl").is_symlink() and load_lines(tmp_path / "phase.jsonl") == [line()]


json_values = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)


@given(metrics=st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=4))
@settings(max_examples=50, deadline=None)
def test_what_is_stored_comes_back_exactly(metrics):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phase.jsonl"
        result = {"experiment": {"seed": 1}, "metrics": metrics, "context": {}}
        store_result(path, result)
        assert load_lines(path) == [result] == [plain(result)]


HONEST = {
    "experiment": {"data": "grid", "size": [64, 96], "resize": "pad", "damage": "stains", "score": "residual + latent", "held_out_share": 0.2, "seed": 3},
    "metrics": {"residual": {"image_auroc": 0.9, "by_defect": {"bent": {"aupro": 0.25}}}, "psnr": 31.5},
    "context": {"seconds": 12.5, "chosen": "residual", "versions": {"torch": "2.9"}},
}
ODD = ["null", "true", "-1", "NaN", "-Infinity", "1e999", "1" + "0" * 400, "9" * 5000, '""', '"a\\nb"', '"\\ud800"', "[]", "{}", '[3, "a"]', '{"a": {"b": 1}, "a.b": 2}', '{"a": 1, "a": 2}', "[" * 10_000, "[" * 700 + "]" * 700, "", "0.125"]
TWICE = [("experiment", "fit"), ("experiment", "psnr"), ("metrics", "seed"), ("metrics", "context.seconds"), ("metrics", "residual.image_auroc"), ("experiment", "context.seconds")]


def homes(tree, way=()):
    "The way to every value in dicts within dicts."
    for key, value in tree.items():
        yield (*way, key)
        if isinstance(value, dict): yield from homes(value, (*way, key))


def crafted(tree, way, text):
    "The JSON of a tree with one value written in another way."
    parts = []
    for key, value in tree.items():
        inside = isinstance(value, dict) and way[:1] == (key,) and len(way) > 1
        said = text if way == (key,) else crafted(value, way[1:], text) if inside else json.dumps(value)
        parts.append(f"{json.dumps(key)}: {said}")
    return "{" + ", ".join(parts) + "}"


def read_all(path):
    "All that reads results, or the one line with which they are refused."
    try: lines = load_lines(path)
    except ValueError as error:
        said = str(error)
        assert said.startswith(f"load_lines: {path} line 2 ") and said.endswith("run its experiment again") and "\n" not in said, said
        assert len(said) < 500 + len(str(path))
        return said
    return lines, read_results(path), failures(path)


@given(st.sampled_from(list(homes(HONEST))), st.sampled_from(ODD))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_value_anywhere_in_a_line_is_refused_by_name_or_read_as_it_stands(way, text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phase.jsonl"
        path.write_text(json.dumps(line()) + "\n" + crafted(HONEST, way, text) + "\n")
        found = read_all(path)
        if isinstance(found, str): return
        value = functools.reduce(lambda tree, key: tree[key], way, found[0][1])
        wanted = "none" if way[-1] == "damage" and text == '""' else json.loads(text)  # as it is called today
        assert json.dumps(value) == json.dumps(wanted)
        store_result(path, line(seed=9))  # what can be read can be stored again
        assert len(load_lines(path)) == 3


@pytest.mark.parametrize("part, name", TWICE)
def test_two_values_under_one_name_are_refused(tmp_path, part, name):
    more = HONEST | {part: HONEST[part] | {name: 0.5}}
    (tmp_path / "phase.jsonl").write_text(json.dumps(line()) + "\n" + json.dumps(more))
    said = str(read_all(tmp_path / "phase.jsonl"))
    assert "has two values for" in said or "by its old and its new name" in said


@given(st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_bad_copy_of_a_line_is_refused_by_name_or_is_json(data):
    whole = bytearray(json.dumps(HONEST).encode())
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()): whole[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != 10))
    else: del whole[place:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phase.jsonl"
        path.write_bytes(json.dumps(line()).encode() + b"\n" + bytes(whole))
        read_all(path)


@given(order=st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_the_file_does_not_depend_on_the_order_of_writing(order):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a", "b")]
        for path, seeds in zip(paths, (range(6), order)):
            for seed in seeds: store_result(path, line(seed))
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_undefined_figures_are_null_in_the_file_and_nan_in_the_table(tmp_path):
    path = store_result(tmp_path / "phase.jsonl", line(value=float("nan")))
    assert '"image_auroc": null' in path.read_text() and "NaN" not in path.read_text()
    assert math.isnan(read_results(path)["residual.image_auroc"].item())


def test_several_files_make_one_table_and_failures_stand_apart(tmp_path):
    paths = [store_result(tmp_path / f"{number}.jsonl", line(number)) for number in range(2)]
    store_result(paths[0], {"experiment": {"seed": 7}, "metrics": {}, "context": {"error": "ValueError: no"}})
    assert read_results(paths)["seed"].tolist() == [0, 1]
    assert failures(paths[0])["error"].tolist() == ["ValueError: no"] and failures(paths[1]).empty


def frame(values, **more): return pd.DataFrame([{"data": data, "loss": loss, "seed": seed, "figure": value} | more for (data, loss, seed), value in values.items()])


def test_a_table_worked_by_hand():
    runs = frame({("grid", "mse", 0): 0.9, ("grid", "mse", 1): 0.8, ("pill", "mse", 0): 0.5, ("pill", "mse", 1): 0.7, ("grid", "ssim", 0): 0.95, ("pill", "ssim", 0): float("nan")})
    table = comparison_table(runs, "figure", rows="data", columns="loss")
    assert table.loc["grid", "mse"] == "85.0 ± 7.1 (2)"   # 0.1 / sqrt(2)
    assert table.loc["mean", "mse"] == "72.5 ± 3.5 (2)"   # seeds: 0.70, 0.75
    assert table.loc["grid", "ssim"] == "95.0 (1)"
    assert table.loc["pill", "ssim"] == "–" and table.loc["mean", "ssim"] == "–"  # an undefined figure does not vanish from a mean
    by_loss = comparison_table(runs, ["figure"], rows="loss")
    assert by_loss.loc["mse", "figure"] == "72.5 ± 3.5 (2)"


def test_a_table_refuses_to_average_over_a_hidden_choice():
    values = {("grid", "mse", 0): 0.9, ("grid", "mse", 1): 0.8}
    runs = pd.concat([frame(values, steps=100), frame(values, steps=1000)])
    with pytest.raises(ValueError, match=r"differ in \['steps'\]"): comparison_table(runs, "figure", rows="loss")
    assert comparison_table(runs, "figure", rows=["loss", "steps"]).shape == (2, 1)


def test_a_figure_missing_from_some_categories_has_no_mean_over_the_others():
    runs = frame({("grid", "mse", 0): 0.9, ("pill", "mse", 0): 0.5, ("grid", "ssim", 0): 0.9})
    assert comparison_table(runs, "figure", rows="loss").loc["mse", "figure"] == "70.0 (1)"
    assert "ssim" not in comparison_table(runs, "figure", rows="loss").index


def test_published_numbers_have_sources_and_stand_beside_ours():
    published = read_published(PUBLISHED, ["NSA logistic", "DRAEM"])
    assert published["source"].str.len().min() > 5
    runs = pd.DataFrame([{"data": data, "seed": seed, "image_auroc": 0.9, "pixel_ap": 0.5, "loss": "mse"} for data in ("grid", "bottle") for seed in range(3)])
    table = comparison_table(runs, "image_auroc", columns="loss", published=published)
    assert table.loc["grid", "NSA logistic (published)"] == "99.9" and table.loc["source", "mse"] == "here"
    assert "github" in table.loc["source", "NSA logistic (published)"]
    both = comparison_table(runs, ["image_auroc", "pixel_ap"], published=published)
    assert {"image_auroc: DRAEM (published)", "pixel_ap: DRAEM (published)"} <= set(both.columns)
    assert ("pixel_ap", "DRAEM (published)") in comparison_table(runs, ["image_auroc", "pixel_ap"], columns="loss", published=published).columns


def test_every_quoted_number_is_well_formed():
    published = read_published(PUBLISHED)
    assert set(published["metric"]) <= {"image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro"}
    assert not published.duplicated(["method", "category", "metric"]).any()
    assert published["pretrained"].notna().all()


@given(differences=st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=2, max_size=10))
@settings(max_examples=60, deadline=None)
def test_the_p_value_is_scipys(differences):
    if all(value == 0 for value in differences): return
    theirs = permutation_test((np.array(differences),), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p_value(differences) == pytest.approx(min(1.0, theirs.pvalue), abs=1e-9)


def test_the_p_value_keeps_its_promise():
    "Under no difference at all, p <= 0.05 in about one of twenty studies."
    random = np.random.default_rng(0)
    rate = np.mean([sign_flip_p_value(random.normal(0, 1, 9)) <= 0.05 for _ in range(1000)])
    assert 0.03 < rate < 0.07


def test_the_drawn_p_value_is_near_the_exact_one():
    differences = np.random.default_rng(3).normal(0.3, 1, 16)
    assert sign_flip_p_value(np.append(differences, 0)) == pytest.approx(sign_flip_p_value(differences), abs=0.006)


def test_pairs_take_the_category_out():
    random = np.random.default_rng(0)
    base = {"grid": 0.99, "pill": 0.75, "bottle": 0.9}
    runs = frame({(data, loss, seed): base[data] + 0.01 * (loss == "b") + random.normal(0, 0.003) for data in base for loss in "ab" for seed in range(3)})
    outcome = paired_test(runs, "figure", "loss", "b", "a")
    assert outcome.pairs == 9 and outcome.p_value < 0.02 and outcome.low < 0.01 < outcome.high
    assert "p = " in str(outcome)


def test_the_bootstrap_interval_covers_the_truth():
    "95 % intervals of a known AUROC, over 60 test sets."
    random, truth = np.random.default_rng(0), 0.7602  # P(N(1,1) > N(0,1)) = Phi(1 / sqrt 2)
    labels = np.repeat([0, 1], [40, 60])
    hits = 0
    for trial in range(60):
        _, low, high = bootstrap_images(labels, labels + random.normal(size=100), draws=200, seed=trial)
        hits += low <= truth <= high
    assert 50 <= hits <= 60


def test_history_goes_to_csv(tmp_path):
    path = store_history(tmp_path / "run", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("nan"), "head": 1.0}])
    table = pd.read_csv(path)
    assert table["step"].tolist() == [1, 2] and math.isnan(table["loss"][1]) and list(table) == ["step", "loss", "head"]


def test_scores_lie_below_each_other(tmp_path):
    path = store_result(tmp_path / "a.jsonl", {"experiment": {"data": "grid", "seed": 0}, "metrics": {"psnr": 30.0, "x": {"image_auroc": 0.5, "by_defect": {"bent": {"aupro": 0.2}}}, "y": {"image_auroc": 0.6}}, "context": {}})
    table = by_score(read_results(path))
    assert table["score"].tolist() == ["x", "y"] and table["psnr"].tolist() == [30.0, 30.0]
    assert table["by_defect.bent.aupro"].tolist()[0] == 0.2
    assert json.loads(path.read_text())["metrics"]["y"] == {"image_auroc": 0.6}
    assert mean_and_spread(table["image_auroc"]) == "55.0 ± 7.1 (2)"

"What came of an expectation: the right verdict where the truth is known, and runs that may not be averaged."
import math

import numpy as np
import pandas as pd
import pytest

from recon_ad.study import (
    PLAIN, SETS, Expectation, conclude, describe_runs, mean_interval, paired_differences, picked_by_validation, shortcuts, study,
    untrained,
)

FIVE = ("grid", "kolektor_strips", "bottle", "pill", "transistor")


def runs_of(gains, seeds=3, luck=0.002, metric="fused.aupro"):
    "Runs of two variants: `new` gains this much on each set, and the luck of the seed is the same for both, plus a little."
    random = np.random.default_rng(0)
    rows = []
    for place, (data, gain) in enumerate(gains.items()):
        for seed in range(seeds):
            base = 0.4 + 0.1 * place + random.normal(0, 0.03)
            rows.append({"data": data, "seed": seed, "variant": "old", metric: base})
            rows.append({"data": data, "seed": seed, "variant": "new", metric: base + gain + random.normal(0, luck)})
    return pd.DataFrame(rows)


def verdict(frame, metric="fused.aupro", **bound):
    return conclude([Expectation("new beats old", paired_differences(frame, metric, "new", "old"), **bound)]).iloc[0]


@pytest.mark.parametrize(("gains", "expected", "sets"), [
    ([0.03, 0.02, 0.04, 0.03, 0.02], "held", "5 of 5"),
    ([-0.03, -0.02, -0.04, -0.03, -0.02], "refuted", "0 of 5"),
    ([0.03, 0.03, 0.03, 0.03, -0.10], "undecided", "4 of 5"),
])
def test_the_verdict_is_right_where_the_truth_is_known(gains, expected, sets):
    row = verdict(runs_of(dict(zip(FIVE, gains))), above=0)
    assert (row["verdict"], row["held on sets"], row["interval over"]) == (expected, sets, "5 sets")


def test_below_mirrors_above_and_a_bound_moves_the_verdict():
    frame = runs_of(dict.fromkeys(FIVE, 0.03))
    assert verdict(frame, below=0)["verdict"] == "refuted"
    assert verdict(frame, above=0.02)["verdict"] == "held"
    assert verdict(frame, above=0.05)["verdict"] == "refuted"
    assert verdict(frame, below=0.05)["verdict"] == "held"
    worse = frame.replace({"variant": {"new": "old", "old": "new"}})
    assert verdict(worse, below=0)["verdict"] == "held" and verdict(worse, above=0)["verdict"] == "refuted"


def test_seeds_of_one_set_are_no_witnesses_for_others():
    "Thirty seeds that agree do not make two sets that disagree a finding, as they would in one pot."
    frame = runs_of({"grid": 0.10, "pill": 0.01}, seeds=30)
    row = verdict(frame, above=0)
    pot = paired_differences(frame, "fused.aupro", "new", "old")
    assert mean_interval(pot)[1] > 0
    assert (row["verdict"], row["held on sets"], row["interval over"]) == ("undecided", "2 of 2", "2 sets")


def test_every_set_weighs_the_same():
    many, few = runs_of({"grid": 0.0}, seeds=9, luck=0), runs_of({"pill": 0.1}, seeds=1, luck=0)
    assert verdict(pd.concat([many, few]), above=0)["measured"].startswith("+5.0 points")


def test_one_set_is_judged_by_its_seeds_and_one_run_by_nothing():
    frame = runs_of({"grid": 0.03})
    assert tuple(verdict(frame, above=0)[["verdict", "interval over"]]) == ("held", "3 seeds")
    row = verdict(frame[frame["seed"] == 0], above=0)
    assert tuple(row[["verdict", "interval over", "held on sets"]]) == ("undecided", "1 run", "1 of 1")
    assert "[" not in row["measured"]


def test_one_seed_on_each_set_is_judged_over_the_sets():
    assert verdict(runs_of(dict.fromkeys(FIVE, 0.03), seeds=1), above=0)["verdict"] == "held"


def test_a_set_without_pairs_is_named_and_not_counted():
    frame = runs_of(dict.fromkeys(FIVE, 0.03))
    row = verdict(frame[~((frame["data"] == "pill") & (frame["variant"] == "old"))], above=0)
    assert (row["held on sets"], row["interval over"]) == ("4 of 4 (no pair on pill)", "4 sets")


def test_figures_that_are_no_number_are_left_out():
    frame = runs_of(dict.fromkeys(FIVE, 0.03))
    lost = frame.copy()
    lost.loc[(lost["data"] == "pill") & (lost["seed"] > 0), "fused.aupro"] = math.nan
    assert verdict(lost, above=0)["held on sets"] == "5 of 5"
    lost.loc[lost["data"] == "pill", "fused.aupro"] = math.nan
    assert verdict(lost, above=0)["held on sets"] == "4 of 4 (no pair on pill)"
    lost["fused.aupro"] = math.nan
    row = verdict(lost, above=0)
    assert (row["measured"], row["verdict"], row["interval over"]) == ("–", "undecided", "–")


def test_a_variant_that_was_not_run_is_undecided():
    row = conclude([Expectation("?", paired_differences(runs_of({"grid": 0.1}), "fused.aupro", "newer", "newest"), above=0)]).iloc[0]
    assert (row["measured"], row["verdict"], row["held on sets"]) == ("–", "undecided", "0 of 0")


def test_no_difference_at_all_does_not_hold():
    frame = runs_of(dict.fromkeys(FIVE, 0.0), luck=0)
    assert tuple(verdict(frame, above=0)[["verdict", "held on sets"]]) == ("undecided", "0 of 5")


def test_smoke_runs_are_not_judged():
    frame = runs_of(dict.fromkeys(FIVE, 0.03))
    rows = conclude([Expectation("new beats old", paired_differences(frame, "fused.aupro", "new", "old"), above=0)], smoke=True)
    assert not rows.isin(["held", "refuted", "undecided"]).any(axis=None) and "smoke" in rows["verdict"].iloc[0]


def test_units_are_those_of_the_figure():
    for metric, said in (("psnr", "+3.0 dB"), ("fused.aupro", "+300.0 points"), ("correlation", "+3.00")):
        assert verdict(runs_of({"grid": 3.0}, seeds=1, luck=0, metric=metric), metric, above=0)["measured"] == said


def test_an_expectation_names_one_bound():
    none = pd.Series(dtype=float)
    for bounds in ({}, {"above": 0.0, "below": 0.0}):
        with pytest.raises(ValueError, match="either above or below"): Expectation("?", none, **bounds)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    draws = random.normal(0.3, 1, (2000, 5))
    inside = [low <= 0.3 <= high for _, low, high in map(mean_interval, draws)]
    assert abs(np.mean(inside) - 0.95) < 0.015  # three standard deviations of 2000 draws


def psnrs(*values, data="bottle", variant="unet"):
    return pd.DataFrame({"data": data, "variant": variant, "seed": range(len(values)), "psnr": values})


@pytest.mark.parametrize(("values", "flags"), [
    ([28.7, 32.4, 17.7], [False, False, True]),            # the run of phase 3
    ([36.6, 40.7, 42.6], [False, False, False]),           # the widest spread that is none
    ([30.0, 30.0, 24.0], [False, False, False]),           # exactly 6 dB is not more than 6 dB
    ([30.0, 30.0, 23.9], [False, False, True]),
    ([30.0, 20.0], [False, True]),
    ([20.0], [False]),
    ([30.0, float("nan"), 31.0], [False, True, False]),
    ([float("nan"), float("nan")], [False, False]),        # nothing to measure by
])
def test_untrained_runs_are_known_by_their_siblings(values, flags):
    assert untrained(psnrs(*values)).tolist() == flags


def test_other_variants_and_sets_are_no_siblings():
    frame = pd.concat([psnrs(38.0, 38.5), psnrs(24.0, 24.5, variant="autoencoder"), psnrs(20.0, 20.5, data="grid")])
    assert not untrained(frame).any() and untrained(frame).index.equals(frame.index)


def test_what_a_table_rests_on_is_said():
    column = "context.versions.recon_ad"
    frame = psnrs(28.7, 32.4, 17.7).assign(**{column: ["0.1.0", "0.1.0", "0.2.0"]})
    said = describe_runs(frame, present="0.4.0")
    assert "3 runs" in said and "0.1.0, 0.2.0" in said and "0.4.0, may give other metrics" in said and "unet on bottle, seed 2 (17.7 dB)" in said
    assert "may give" not in describe_runs(frame.assign(**{column: "0.4.0"}), present="0.4.0")
    assert "version unknown" in describe_runs(frame.drop(columns=column))


def test_a_shortcut_has_no_spread():
    frame = pd.DataFrame({"data": ["grid", "grid", "pill"], "shortcut.image_auroc": [0.941, 0.941, 0.776]})
    assert shortcuts(frame).to_dict() == {"grid": "94.1", "pill": "77.6", "mean": "85.8"}


def test_what_validation_damage_picks_is_beside_the_best():
    frame = pd.DataFrame({"data": "grid", "variant": ["a", "b", "c"], "selection_score": [0.5, 0.9, 0.1], "fused.aupro": [0.8, 0.6, 0.7]})
    row = picked_by_validation(frame).loc["grid"]
    assert (row["picked"], row["of the picked"], row["best on test"], row["of the best"], row["median"]) == ("b", 0.6, "a", 0.8, 0.7)


def test_smoke_keeps_the_options_of_a_variant_and_makes_them_tiny():
    variants = {"wide": {"architecture_options": {"width": 48, "bottleneck": 16}}, "plain": {}, "third": {"loss": "mse"}}
    made = study(variants, dict.fromkeys(FIVE, 3), smoke=True)
    options = {name: dict(one.architecture_options) for one, name in made.items()}
    assert options == {"wide": {"width": 8, "bottleneck": 16}, "plain": {"width": 8}}
    assert {(one.data, one.steps, one.size) for one in made} == {("strips", 2, (32, 192))}
    assert len(study(variants, dict.fromkeys(FIVE, 3))) == 45 and set(FIVE) < set(SETS) and PLAIN["steps"] == 400

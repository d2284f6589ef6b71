"What `benchmarks/run.py` says about figures: what fell is named, and nothing else."
import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
MACHINE = {"cores": 2, "threads": 1, "bfloat16": True}


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("run")


def figure(value, **changes):
    return {"name": "a", "value": value, "unit": "ratio", "better": "higher", "aim": None, "quick": False, "machine": MACHINE} | changes


@pytest.mark.parametrize(("new", "old", "better", "is_named"), [
    (0.79, 1.0, "higher", True), (0.81, 1.0, "higher", False), (5.0, 1.0, "higher", False),
    (1.26, 1.0, "lower", True), (1.24, 1.0, "lower", False), (0.1, 1.0, "lower", False),
])
def test_what_fell_by_more_than_a_fifth_is_named(run, new, old, better, is_named):
    said = run.fallen([figure(new, better=better)], [figure(old, better=better)])
    assert said == ([f"a: {new:g}, was {old:g}"] if is_named else [])


def test_the_latest_figure_of_its_kind_is_the_one_to_compare_with(run):
    before = [figure(9.0), figure(1.0), figure(9.0, quick=True), figure(9.0, name="b"), figure(9.0, machine=MACHINE | {"cores": 8})]
    assert run.fallen([figure(0.9)], before) == []
    assert run.fallen([figure(0.7)], before) == ["a: 0.7, was 1"]


def test_seconds_belong_to_their_machine(run):
    assert run.fallen([figure(9.0, unit="seconds", better="lower")], [figure(1.0, unit="seconds", better="lower")]) == []


@pytest.mark.parametrize(("value", "better", "aim", "is_missed"), [
    (1.3, "lower", 1.2, True), (1.2, "lower", 1.2, False), (49, "higher", 50, True), (50, "higher", 50, False), (1, "lower", None, False),
])
def test_an_aim_is_missed_on_one_side_alone(run, value, better, aim, is_missed):
    assert run.is_missed(figure(value, better=better, aim=aim)) is is_missed


def test_a_figure_is_stored_as_soon_as_it_is_made_and_a_fall_ends_with_1(run, tmp_path, monkeypatch, capsys):
    path, values = tmp_path / "benchmarks.jsonl", [2.0, 1.0]

    def measure(quick):
        yield {"name": "a", "value": values.pop(0), "unit": "ratio", "n": 5, "better": "higher", "aim": None}
        if not values: raise KeyboardInterrupt
    monkeypatch.setitem(run.BENCHMARKS, "growth", measure)
    words = ["--only", "growth", "--file", str(path)]
    assert run.main(words) == 0
    with pytest.raises(KeyboardInterrupt): run.main(words)
    stored = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["value"] for line in stored] == [2.0, 1.0]
    assert stored[0]["benchmark"] == "growth" and {"cores", "threads", "bfloat16", "torch", "load"} <= set(stored[0]["machine"])
    values[:] = [0.5, 0.4]
    assert run.main(words) == 1
    assert "a: 0.5, was 1" in capsys.readouterr().out


def test_a_slope_is_the_exponent(run):
    from timing import slope
    assert slope([10, 100, 1000], [2, 200, 20000]) == pytest.approx(2)
    assert slope([1, 2, 4], [3, 6, 12]) == pytest.approx(1)


def test_a_figure_that_is_no_number_is_not_stored(run):
    with pytest.raises(ValueError, match="not a finite figure"): run.row("a", float("nan"))


def test_every_stored_figure_is_of_a_benchmark_that_there_is(run):
    stored = run.stored_figures(run.STORED)
    assert stored and {line["benchmark"] for line in stored} <= set(run.BENCHMARKS)
    assert all(line["n"] >= 1 and line["unit"] in (*run.COMPARED, "seconds", "points") for line in stored)

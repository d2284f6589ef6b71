"What training promises whatever the machine does: a budget of time holds, and a resumed run goes on where it stopped."
import copy
import functools
import os
import resource
import signal
import stat
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from recon_ad import training
from recon_ad.architectures import build_model
from recon_ad.detector import Detector
from recon_ad.losses import parse_loss
from recon_ad.training import (
    Clock, ThreadChoice, TrainingData, TrainingSettings, read_checkpoint, save_checkpoint, train,
)

SMALL = {"width": 8, "depth": 2, "bottleneck": 16}
SETTINGS = TrainingSettings(batch_size=2, precision="float32")
PLAIN = dict(architecture="autoencoder", score="residual + latent", damage="none", crop=None)


class Machine:
    "A clock that stands still but for what it is told: no test depends on how busy this machine is."
    def __init__(self): self.now, self.each_look = 0.0, 0.0

    def perf_counter(self):
        self.now += self.each_look
        return self.now


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(training, "time", made)
    return made


class Steps:
    "No damage, but a step that takes as long as is said on a machine's clock, and perhaps a Ctrl-C."
    def __init__(self, machine, seconds, interrupt_at=None):
        self.machine, self.seconds, self.interrupt_at, self.count = machine, seconds, interrupt_at, 0

    def __str__(self): return "none that changes anything"

    def __call__(self, image, generator, foreground=None):
        self.machine.now += self.seconds(self.count)
        self.count += 1
        if self.count == self.interrupt_at: signal.raise_signal(signal.SIGINT)
        return type("Damaged", (), {"image": image, "target": image, "mask": torch.zeros_like(foreground)})


def squares(n=8):
    images = np.full((n, 32, 32), 40, np.uint8)
    for number, image in enumerate(images): image[8:24, 4 + number % 8:20 + number % 8] = 200
    return images


def run(steps, seconds, checkpoint=None):
    "The history of a training within a budget, and the seconds it took."
    begin = steps.machine.now
    history = train(build_model(**SMALL), TrainingData(squares(), steps), parse_loss("mse"), SETTINGS, "cpu", checkpoint, progress=False, seconds=seconds)
    return history, steps.machine.now - begin


class TestBudget:
    @pytest.mark.parametrize("pace", [
        lambda count: 0.02,                            # an even machine
        lambda count: 0.02 if count < 10 else 0.12,    # slows down to a sixth
        lambda count: 0.12 if count < 10 else 0.02,    # is left alone after a while
        lambda count: 0.4 if count == 15 else 0.02,    # stops for a moment
    ])
    def test_it_holds_within_half_a_step_and_the_rate_ends_at_nothing(self, machine, pace):
        history, took = run(Steps(machine, pace), 3.0)
        rates = [row["learning_rate"] / SETTINGS.learning_rate for row in history]
        assert took == pytest.approx(3.0, abs=0.06)  # half of the longest step at the end
        assert rates[-1] < 0.05 and max(rates) > 0.9
        assert rates[rates.index(max(rates)):] == sorted(rates[rates.index(max(rates)):], reverse=True)

    def test_the_least_budget_makes_one_step(self, machine):
        history, _ = run(Steps(machine, lambda count: 0.01), 1e-9)
        assert [row["step"] for row in history] == [1]

    def test_resume_goes_on_with_the_time_that_is_left(self, machine, tmp_path):
        file, before = tmp_path / "run.checkpoint", signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt, match=r"after step 30, 1 of 3 s; run.checkpoint holds"):
                run(Steps(machine, lambda count: 0.04, interrupt_at=30), 3.0, file)
        finally: signal.signal(signal.SIGINT, before)
        state = read_checkpoint(file)
        assert state["step"] == 30 and state["clock"]["spent"] == pytest.approx(1.2)
        machine.now += 1000  # nobody was there in between
        even = Steps(machine, lambda count: 0.04)
        history, took = run(even, 3.0, file)
        assert state["clock"]["spent"] + took == pytest.approx(3.0)
        assert history[:len(state["history"])] == state["history"] and history[-1]["learning_rate"] < 0.02 * SETTINGS.learning_rate
        assert read_checkpoint(file)["settings"]["steps"] == history[-1]["step"] == 75  # 3 s of 0.04 s
        assert run(even, 3.0, file)[0] == history  # a finished run is not prolonged
        with pytest.raises(ValueError, match="seconds 3.0 there, 5.0 here"): run(even, 5.0, file)

    def test_the_steps_made_are_kept(self, machine, tmp_path):
        machine.each_look = 0.05  # so a step takes 0.05 s
        detector = Detector(**PLAIN, size=(32, 32), architecture_options=SMALL, batch_size=2, held_out_share=0.25, device="cpu")
        detector.fit(squares(), seconds=0.5, progress=False)
        made = detector.history_[-1]["step"]
        assert 5 < made < 12 and Detector.load(detector.save(tmp_path / "squares.safetensors")).settings.steps == made


class TestCheckpointIsWholeOrNot:
    def test_a_full_disk_leaves_the_old_one(self, tmp_path):
        path = tmp_path / "run.checkpoint"
        save_checkpoint(path, step=1, settings={}, identity={}, weights=torch.zeros(1000))
        before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # no file may grow beyond
        try:
            with pytest.raises(OSError, match="train: cannot write .*run.checkpoint: File too large; free space"):
                save_checkpoint(path, step=2, settings={}, identity={}, weights=torch.ones(1000))
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["run.checkpoint"]

    @pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
    def test_others_may_read_it_where_the_umask_lets_them(self, tmp_path, umask, mode):
        before = os.umask(umask)
        try: save_checkpoint(tmp_path / "run.checkpoint", step=1)
        finally: os.umask(before)
        assert stat.S_IMODE((tmp_path / "run.checkpoint").stat().st_mode) == mode

    def test_equal_states_are_equal_files(self, tmp_path):
        for name in ("a", "b"): save_checkpoint(tmp_path / name, step=1, weights=torch.ones(3))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


SHORT = TrainingSettings(steps=6, batch_size=2, precision="float32", seed=3)


def go_on_from(file):
    "The weights at the end of a run that goes on from a checkpoint."
    model = build_model(**SMALL)
    train(model, TrainingData(squares(), Steps(Machine(), lambda count: 0.0)), parse_loss("mse + ssim"), SHORT, "cpu", file, progress=False)
    return model.state_dict()


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    "The state of a run that was interrupted at step 3 of 6, and the weights to which it leads."
    file, before = tmp_path_factory.mktemp("honest") / "run.checkpoint", signal.signal(signal.SIGINT, signal.default_int_handler)
    damage = Steps(Machine(), lambda count: 0.0, interrupt_at=3)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(build_model(**SMALL), TrainingData(squares(), damage), parse_loss("mse + ssim"), SHORT, "cpu", file, progress=False)
    finally: signal.signal(signal.SIGINT, before)
    state = read_checkpoint(file)
    assert state["step"] == 3
    return state, go_on_from(file)


def refusal(error):
    said = str(error)
    assert said.startswith("train: crafted.checkpoint ") and "\n" not in said and len(said) < 700, said
    return said


def places(tree, way=()):
    "The way to every value in dicts within dicts and lists."
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in entries:
        yield (*way, key)
        yield from places(value, (*way, key))


def changed(state, way, value):
    "The state with one value put in its place; `gone` takes it out."
    some, key = copy.copy(state), way[0]
    if isinstance(some, tuple): some = list(some)
    if len(way) > 1: some[key] = changed(some[key], way[1:], value)
    elif value is gone: del some[key]
    else: some[key] = value
    return tuple(some) if isinstance(state, tuple) else some


gone = object()
ENDLESS = []
for _ in range(60): ENDLESS = [ENDLESS, ENDLESS]  # 60 lists in a file, 2**60 values to whoever walks through them
ODD = [
    gone, None, True, -1, 10**20, 0.5, float("nan"), float("inf"), -1e300, "", "a\nb", [], {}, [3, "a"], {"a": 1}, {3: 4}, (1, 2), ENDLESS,
    torch.zeros(0), torch.zeros(2, 2, 2), torch.tensor(float("nan")), torch.zeros(1).expand(10**9, 10**3), torch.zeros(3, device="meta"),
]
NAMED = [
    (("settings",), gone, "settings is missing"), (("clock",), gone, "clock is missing"), (("step",), 7, "step must be a whole number from 1 to 6, got 7"),
    (("settings", "steps"), ENDLESS, "settings.steps must be a plain value, got a list"), (("settings", "seed"), 4, "seed 4 there, 3 here"),
    (("step",), 2, "history must be in the order of the steps, up to 2"), (("step",), 4, "it has not made the 4 steps"),
    (("identity", "loss"), "1.0*mse", "belongs to another run (loss '1.0*mse' there"), (("clock", "spent"), -1.0, "clock.spent must be a number >= 0, got -1.0"),
    (("model",), {"weight": torch.zeros(2)}, "is missing"), (("model", "more"), torch.zeros(2), "tensor more belongs to nothing"),
    (("optimiser", "param_groups", 0, "weight_decay"), 0.5, "another optimiser"), (("optimiser", "state"), {}, "it has not made the 3 steps"),
    (("loss", "means", "mse"), 7.0, "loss.means must be 1"), (("loss", "seen"), 5, "loss.seen must be from 0 to 0, got 5"),
    (("sums", "mse"), 3.0, "sums.mse must be a tensor, got 3.0"), (("history", 0, "loss"), "low", "history must be rows"),
]


class TestCraftedCheckpoints:
    @pytest.mark.parametrize("way, value, named", NAMED, ids=[named for _, _, named in NAMED])
    def test_what_is_wrong_is_named(self, honest, tmp_path, way, value, named):
        save_checkpoint(tmp_path / "crafted.checkpoint", **changed(honest[0], way, value))
        with pytest.raises(ValueError) as caught: go_on_from(tmp_path / "crafted.checkpoint")
        assert named in refusal(caught.value)

    @given(st.data())
    @settings(max_examples=120, deadline=None, derandomize=True)
    def test_any_value_anywhere_is_refused_in_one_line_or_changes_no_weight(self, honest, tmp_path_factory, data):
        state, weights = honest
        first = data.draw(st.sampled_from(sorted(state)))  # the network has most of the places
        way = data.draw(st.sampled_from([way for way in [(first,), *places(state[first], (first,))]]))
        value = data.draw(st.sampled_from(ODD))
        like = functools.reduce(lambda tree, key: tree[key], way, state)
        if isinstance(like, torch.Tensor) and data.draw(st.booleans()):
            value = data.draw(st.sampled_from([torch.full_like(like, torch.nan, dtype=torch.float32), like.to(torch.float16), like.to_sparse()]))
        file = tmp_path_factory.mktemp("fuzz") / "crafted.checkpoint"
        save_checkpoint(file, **changed(state, way, value))
        try: found = go_on_from(file)
        except ValueError as error: refusal(error)
        else: assert all(torch.equal(found[name], weights[name]) for name in weights), (way, value)

    @given(st.data())
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_a_bad_copy_is_refused_or_the_same(self, honest, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("copy")
        save_checkpoint(folder / "honest.checkpoint", **honest[0])
        whole = bytearray((folder / "honest.checkpoint").read_bytes())
        place = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()): whole[place] ^= data.draw(st.integers(1, 255))
        else: del whole[place:]
        (folder / "crafted.checkpoint").write_bytes(whole)
        try: state = read_checkpoint(folder / "crafted.checkpoint")
        except ValueError as error: refusal(error)
        else:
            save_checkpoint(folder / "again.checkpoint", **state)
            assert (folder / "again.checkpoint").read_bytes() == (folder / "honest.checkpoint").read_bytes()

    def test_what_could_be_executed_is_not(self, tmp_path):
        class Call:
            def __reduce__(self): return os.mkdir, (str(tmp_path / "executed"),)
        file = tmp_path / "crafted.checkpoint"
        for form in (True, False):
            torch.save({"step": Call()}, file, _use_new_zipfile_serialization=form)
            with pytest.raises(ValueError, match="is no checkpoint") as caught: read_checkpoint(file)
            refusal(caught.value)
        assert not (tmp_path / "executed").exists()

    def test_what_would_unfold_is_not(self, honest, tmp_path):
        save_checkpoint(tmp_path / "honest.checkpoint", **honest[0])
        with zipfile.ZipFile(tmp_path / "honest.checkpoint") as honest_file, zipfile.ZipFile(tmp_path / "crafted.checkpoint", "w", zipfile.ZIP_DEFLATED) as file:
            for name in honest_file.namelist(): file.writestr(name, honest_file.read(name))
        with pytest.raises(ValueError, match="it is compressed") as caught: read_checkpoint(tmp_path / "crafted.checkpoint")
        refusal(caught.value)


def test_without_a_budget_the_clock_counts():
    clock = Clock(TrainingSettings(steps=250))
    due = []
    while not clock.is_over:
        if clock.tick(): due.append(clock.step)
    assert due == list(range(2, 251, 2)) and clock.share == 1


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class TestThreads:
    def choices(self, choice, steps, seconds):
        "The threads in use at each of so many steps, which last as `seconds` says."
        seen = []
        for _ in range(steps):
            seen.append(torch.get_num_threads())
            choice.tell(seconds[seen[-1]])
        return seen

    def test_all_are_taken_where_nothing_is_busy(self, four_threads):
        with ThreadChoice("auto") as choice:
            seen = self.choices(choice, 200, {4: 0.1, 3: 0.13, 1: 0.35})
        assert set(seen[:20]) == {4, 3, 1} and set(seen[20:]) == {4}
        assert torch.get_num_threads() == 4

    def test_neighbours_that_come_and_go_are_noticed(self, four_threads):
        quiet, busy = {4: 0.1, 3: 0.13, 1: 0.35}, {4: 0.8, 3: 0.5, 1: 0.35}
        with ThreadChoice("auto") as choice:
            assert self.choices(choice, 100, quiet)[-1] == 4
            seen = self.choices(choice, 100, busy)
            assert seen[0] == 4 and seen[-1] == 1
            beside = self.choices(choice, 2000, busy)
            spent = sum(busy[count] for count in beside)
            assert spent < 1.1 * 2000 * busy[1]             # looking again costs little
            assert self.choices(choice, 500, quiet)[-1] == 4

    def test_a_slow_machine_is_not_held_up(self, four_threads):
        with ThreadChoice("auto") as choice: assert self.choices(choice, 7, {4: 20.0, 3: 9.0, 1: 4.0})[-1] == 1

    def test_one_hopeless_step_is_enough(self, four_threads):
        with ThreadChoice("auto") as choice: seen = self.choices(choice, 40, {4: 9.0, 3: 9.0, 1: 0.1})
        assert seen.count(4) == seen.count(3) == 1 and seen[-1] == 1

    @pytest.mark.parametrize("asked, used", [(2, 2), (None, 4)])
    def test_what_is_asked_for_is_kept_and_put_back(self, four_threads, asked, used):
        with ThreadChoice(asked) as choice: assert set(self.choices(choice, 50, {used: 1.0})) == {used}
        assert torch.get_num_threads() == 4

    def test_they_are_put_back_after_an_error(self, four_threads):
        with pytest.raises(RuntimeError), ThreadChoice(1): raise RuntimeError
        assert torch.get_num_threads() == 4

    def test_a_fixed_number_gives_equal_weights(self):
        def weights():
            detector = Detector(**PLAIN, size=(32, 32), architecture_options=SMALL, steps=6, batch_size=2, held_out_share=0.25, device="cpu")
            return detector.fit(squares(), progress=False, threads=2).model_.state_dict().values()
        assert all(torch.equal(*pair) for pair in zip(weights(), weights()))

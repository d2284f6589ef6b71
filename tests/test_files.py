"Files: a detector is written whole or not at all, and a file that nobody vouches for is refused by name."
import copy
import errno
import json
import os
import resource
import stat

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from recon_ad.cli import main
from recon_ad.detector import Detector
from recon_ad.files import whole_file

SMALL = {"width": 4, "depth": 2, "bottleneck": 4}


@pytest.fixture(scope="module")
def detector():
    images = np.random.default_rng(0).integers(60, 120, (16, 32, 64)).astype(np.uint8)
    region = np.zeros((32, 64), bool)
    region[4:28] = True
    fitted = Detector(
        size=(32, 64), architecture_options=SMALL, architecture="autoencoder", damage="none", score="residual + latent + mahalanobis", top_k=1, crop=None, steps=2,
        batch_size=4, precision="float32", held_out_share=0.4, false_alarm_rate=0.2, device="cpu",
    ).fit(images, region, progress=False)
    fitted.held_out_names_ = [f"part {number}.png" for number in fitted.held_out_]
    return fitted


@pytest.fixture(scope="module")
def parts(detector, tmp_path_factory):
    "What an honest file says, and its tensors."
    path = detector.save(tmp_path_factory.mktemp("honest") / "a.safetensors")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = json.loads(file.metadata()["recon_ad"])
    del about["sha256"]  # what is crafted on purpose brings a fitting one, or none
    return about, tensors


def refused(folder, about, tensors, raw=None):
    "The one line with which a crafted file is refused."
    path = folder / "crafted.safetensors"
    save_file(tensors, path, {"recon_ad": json.dumps(about) if raw is None else raw})
    with pytest.raises(ValueError) as caught: Detector.load(path, "cpu")
    said = str(caught.value)
    assert said.startswith("Detector.load: crafted.safetensors ") and "\n" not in said and len(said) < 700
    return said


class TestWholeFile:
    def test_a_full_disk_leaves_the_old_file(self, detector, tmp_path):
        path = detector.save(tmp_path / "a.safetensors")
        before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # no file may grow beyond
        try:
            with pytest.raises(OSError, match="Detector.save: cannot write .*: File too large; free space"):
                detector.save(path)
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failure_at_any_step_leaves_the_old_file(self, detector, tmp_path, monkeypatch, step):
        def fail(*arguments): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path = detector.save(tmp_path / "a.safetensors")
        before = path.read_bytes()
        monkeypatch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left on device"): detector.save(path)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]

    def test_an_interrupt_leaves_the_old_file(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        with pytest.raises(KeyboardInterrupt):
            with whole_file(tmp_path / "a.txt", "test") as part:
                part.write_text("new")
                raise KeyboardInterrupt
        assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]

    def test_a_place_that_cannot_be_written_to_is_one_line(self, detector, tmp_path):
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(OSError, match="Detector.save: cannot write .*name another folder") as caught:
            detector.save(tmp_path / "file" / "a.safetensors")
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder_is_one_line(self, detector, tmp_path):
        tmp_path.chmod(0o555)
        with pytest.raises(OSError, match="Permission denied"): detector.save(tmp_path / "a.safetensors")
        tmp_path.chmod(0o755)

    @pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
    def test_others_may_read_it_where_the_umask_lets_them(self, detector, tmp_path, umask, mode):
        before = os.umask(umask)
        try: path = detector.save(tmp_path / "a.safetensors")
        finally: os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_a_link_stays_a_link(self, detector, tmp_path):
        (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.safetensors")
        detector.save(tmp_path / "link.safetensors")
        assert (tmp_path / "link.safetensors").is_symlink() and (tmp_path / "a.safetensors").is_file()


class TestHonestFiles:
    def test_what_the_threshold_rests_on_comes_back(self, detector, tmp_path):
        again = Detector.load(detector.save(tmp_path / "a.safetensors"), "cpu")
        assert torch.equal(again.held_out_scores_, detector.held_out_scores_)
        assert again.held_out_names_ == detector.held_out_names_
        assert list(again.held_out_) == list(detector.held_out_)
        assert (again.set_by_, again.alone_) == (detector.set_by_, detector.alone_)
        assert again.save(tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()

    def test_a_part_that_stands_alone_is_still_named(self, detector, tmp_path):
        odd = detector.copy()
        odd.alone_ = {3: 62.5}
        assert Detector.load(odd.save(tmp_path / "a.safetensors"), "cpu").alone_ == {3: 62.5}

    def test_a_file_from_before_they_were_kept_still_loads(self, detector, parts, tmp_path):
        about, tensors = parts
        old = {name: about[name] for name in ("settings", "threshold", "false_alarm_rate", "format")}
        save_file(tensors, tmp_path / "old.safetensors", {"recon_ad": json.dumps(old)})
        again = Detector.load(tmp_path / "old.safetensors", "cpu")
        assert again.threshold_ == detector.threshold_ and len(again.held_out_scores_) == 0
        assert (again.held_out_names_, again.set_by_, again.alone_) == (None, [], {})

    def test_names_of_other_images_are_not_kept(self, detector, tmp_path):
        other = detector.copy()
        other.held_out_names_ = ["one.png"]
        assert Detector.load(other.save(tmp_path / "a.safetensors"), "cpu").held_out_names_ is None

    def test_one_bit_of_a_bad_copy_is_found(self, detector, tmp_path):
        path = detector.save(tmp_path / "a.safetensors")
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="checksum differs"): Detector.load(path, "cpu")

    def test_a_threshold_that_a_bad_copy_has_changed_is_found(self, detector, tmp_path):
        path = detector.save(tmp_path / "a.safetensors")
        data, digits = path.read_bytes(), repr(detector.threshold_).encode()
        other = (b"9" if digits[:1] != b"9" else b"8") + digits[1:]
        assert digits in data
        path.write_bytes(data.replace(digits, other, 1))
        with pytest.raises(ValueError, match="checksum differs"): Detector.load(path, "cpu")


def change(path, value):
    "A way to put a value into the metadata; None takes the entry out."
    def apply(about):
        *way, last = path.split("/")
        for name in way: about = about[name]
        if value is None: del about[last]
        else: about[last] = value
    return apply


METADATA = [  # what is changed, its value (None: taken out), what the refusal must name
    ("settings", None, "settings"), ("threshold", None, "threshold"), ("false_alarm_rate", None, "false_alarm_rate"),
    ("format", None, "not a detector of this version"), ("format", 99, "not a detector of this version"),
    ("format", "1", "not a detector of this version"),
    ("settings", [], "metadata.settings must be an object"), ("settings", "all", "metadata.settings must be an object"),
    ("settings/magic", 3, "unknown setting 'magic'"), ("magic", 3, "unknown setting 'magic'"),
    ("threshold", float("nan"), "metadata.threshold must be float"),
    ("threshold", float("-inf"), "metadata.threshold must be float"),
    ("threshold", "3", "metadata.threshold must be float"), ("threshold", [3], "metadata.threshold must be float"),
    ("threshold", True, "metadata.threshold must be float"),
    ("false_alarm_rate", 0, "must lie in (0, 1)"), ("false_alarm_rate", 2, "must lie in (0, 1)"),
    ("settings/size", [32], "size must be"), ("settings/size", ["a", "b"], "size must be"),
    ("settings/size", [32.5, 64], "size must be"), ("settings/size", 32, "size must be"),
    ("settings/size", [0, 64], "size must be"), ("settings/size", [64, 32], "must be F32 of shape [4, 32, 16]"),
    ("settings/size", [10**6, 10**6], "settings.size is too large"), ("settings/size", [10**12, 10**12], "crafted"),
    ("settings/architecture", "transformer", "unknown architecture 'transformer'"),
    ("settings/architecture_options", {"width": 8}, "model."), ("settings/architecture_options", {"wid": 4}, "'wid'"),
    ("settings/architecture_options", {"width": 10**9}, "width is too large"),
    ("settings/architecture_options", {"depth": 10**9}, "depth is too large"),
    ("settings/architecture_options", {"width": "wide"}, "crafted"),
    ("settings/architecture_options", [4], "architecture_options must be a dict"),
    ("settings/score", "residual", "belongs to nothing"), ("settings/score", "beauty", "unknown score 'beauty'"),
    ("settings/score", "residual + latent + mahalanobis + ssim", "ssim.median is missing"),
    ("settings/sigma", "wide", "sigma must be"), ("settings/sigma", -1, "sigma must be"),
    ("settings/sigma", float("nan"), "sigma must be"),
    ("settings/sigma", 1e-58, "sigma must be"), ("settings/sigma", 6e307, "sigma must be"), ("settings/top_k", 10**12, "top must be between"),
    ("settings/loss", "beauty", "beauty"), ("settings/damage", 3, "damage must be text"),
    ("held_out", [], "metadata.held_out must be an object"), ("held_out/scores", ["a"], "held_out.scores"),
    ("held_out/scores", [float("nan")] * 6, "held_out.scores"), ("held_out/names", ["a"], "held_out.names"),
    ("held_out/set_by", [99], "held_out.set_by"), ("held_out/alone", [[1]], "held_out.alone"),
    ("held_out/alone", [[-1, 3.0]], "held_out.alone"), ("held_out/magic", 1, "unknown setting 'magic'"),
]

TENSORS = [  # what is done to the tensors, what the refusal must name
    (lambda t: t.pop("score.usual.latent.spread"), "score.usual.latent.spread is missing"),
    (lambda t: t.pop("score.views.latent.spread_1"), "score.views.latent.spread_1 is missing"),
    (lambda t: t.pop("score.views.mahalanobis.mean_1"), "score.views.mahalanobis.mean_1 is missing"),
    (lambda t: t.update({"score.usual.latent.forward": torch.zeros(2)}), "score.usual.latent.forward belongs to nothing"),
    (lambda t: t.update({"score.nowhere.mean": torch.zeros(2)}), "score.nowhere.mean belongs to nothing"),
    (lambda t: t.update({"extra": torch.zeros(2)}), "extra belongs to nothing"),
    (lambda t: t.update({"region": torch.ones(32, 64)}), "region must be BOOL"),
    (lambda t: t.update({"region": torch.ones(3, 3, dtype=torch.bool)}), "region must be BOOL of shape [32, 64]"),
    (lambda t: t.update({"region": torch.zeros(32, 64, dtype=torch.bool)}), "region marks no pixel"),
    (lambda t: t["score.usual.residual.spread"].zero_(), "score.usual.residual.spread must be above 0"),
    (lambda t: t["score.usual.residual.spread"].neg_(), "score.usual.residual.spread must be above 0"),
    (lambda t: t["score.usual.residual.median"].fill_(float("nan")), "score.usual.residual.median holds values"),
    (lambda t: t.update({"score.views.mahalanobis.mean_1": torch.zeros(1, 1, 1)}), "mahalanobis.mean_1 must be F32 of shape"),
]


class TestCraftedFiles:
    @pytest.mark.parametrize("path, value, named", METADATA, ids=[f"{path}={str(value)[:20]}" for path, value, _ in METADATA])
    def test_metadata(self, parts, tmp_path, path, value, named):
        about, tensors = copy.deepcopy(parts)
        change(path, value)(about)
        assert named in refused(tmp_path, about, tensors)

    @pytest.mark.parametrize("spoil, named", TENSORS, ids=[named for _, named in TENSORS])
    def test_tensors(self, parts, tmp_path, spoil, named):
        about, tensors = copy.deepcopy(parts)
        spoil(tensors)
        assert named in refused(tmp_path, about, tensors)

    def test_every_single_tensor_counts(self, parts, tmp_path):
        about, tensors = parts
        for name in tensors:
            if name == "region": continue  # not every detector has one
            assert f"tensor {name} is missing" in refused(tmp_path, about, {n: t for n, t in tensors.items() if n != name})
            other = tensors | {name: torch.zeros(1, 1, 1, 1, 7)}
            assert f"tensor {name} must be" in refused(tmp_path, about, other)
            other = tensors | {name: tensors[name].to(torch.float16)}
            assert f"tensor {name} must be" in refused(tmp_path, about, other)

    @pytest.mark.parametrize("raw", ["", "{", "[]", "3", "null", '"text"', "[" * 100_000, "9" * 5000, '{"format": 1e999}'])
    def test_what_is_no_object(self, parts, tmp_path, raw): refused(tmp_path, None, parts[1], raw)

    def test_what_is_no_tensor_file(self, detector, tmp_path):
        whole = detector.save(tmp_path / "a.safetensors").read_bytes()
        crafted = tmp_path / "crafted.safetensors"
        for data in (b"", b"\x80\x04.", whole[:100], whole[:-1], b"\xff" * 64, (2**63).to_bytes(8, "little") + b"{}"):
            crafted.write_bytes(data)
            with pytest.raises(ValueError, match="crafted.safetensors is not a detector file") as caught:
                Detector.load(crafted, "cpu")
            assert "\n" not in str(caught.value)

    @given(st.data())
    @settings(max_examples=150, deadline=None, derandomize=True)
    def test_any_value_anywhere_is_refused_in_one_line_or_changes_nothing_but_numbers(self, parts, tmp_path_factory, data):
        about, tensors = copy.deepcopy(parts[0]), parts[1]
        home = data.draw(st.sampled_from([about, about["settings"], about["held_out"]]))
        odd = st.one_of(
            st.none(), st.booleans(), st.integers(-10**20, 10**20), st.floats(), st.text(max_size=5),
            st.lists(st.integers(-3, 10**7), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        )
        home[data.draw(st.sampled_from(sorted(home)))] = data.draw(odd)
        path = tmp_path_factory.mktemp("fuzz") / "crafted.safetensors"
        save_file(tensors, path, {"recon_ad": json.dumps(about)})
        try: loaded = Detector.load(path, "cpu")
        except ValueError as error:
            assert str(error).startswith("Detector.load: crafted.safetensors ") and "\n" not in str(error)
        else:
            picture = np.full((1, 32, 64), 90, np.uint8)
            assert loaded.predict(picture).anomaly_score.isfinite().all()

    def test_the_command_says_it_in_one_line(self, parts, tmp_path, capsys):
        about, tensors = copy.deepcopy(parts)
        about["threshold"] = float("nan")
        save_file(tensors, tmp_path / "a.safetensors", {"recon_ad": json.dumps(about)})
        assert main(["predict", str(tmp_path / "a.safetensors"), str(tmp_path), "--device", "cpu"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("recon_ad: ") and error.count("\n") == 1

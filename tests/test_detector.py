"The line from network to detector: any size, any batch, any restart gives the same numbers."
import csv
import dataclasses
import json
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors import safe_open

from recon_ad.anomaly_maps import MAPS, Observation, image_score
from recon_ad.architectures import ARCHITECTURES, build_model, count_macs, count_parameters, match_parameters
from recon_ad.calibration import PlaceStatistics, threshold
from recon_ad.cli import SETTINGS, main
from recon_ad.data import FITS, to_float
from recon_ad.detector import Detector, held_out_of
from recon_ad.validation import CANDIDATES, VALIDATION_DAMAGE, choose_score, damaged_copies, validation_metrics
from recon_ad.losses import parse_loss
from recon_ad.scores import SCORES, Score, parse_scores
from recon_ad.synthesis import parse_damage
from recon_ad.marking import MARKING_LOSSES
from recon_ad.settings import DetectorSettings, TrainingSettings
from recon_ad.training import TrainingData, batch_indices, interrupts_kept, read_checkpoint, train

MARKS = ("segmentation", "marking")  # views that only some networks have
SMALL = {"width": 8, "depth": 2, "bottleneck": 16}
PLAIN = dict(architecture="autoencoder", score="residual + latent", damage="none", crop=None, top_k=1)  # without a second output
STILL = TrainingSettings(rotation=0, scale=0, shift=0, light=0, precision="float32")  # nothing is moved or lit


def plates(n, size=(64, 96), seed=0):
    "Noise with a bright square."
    generator = np.random.default_rng(seed)
    images = generator.normal(90, 4, (n, *size))
    for image in images:
        top, left = generator.integers(8, 16, 2)
        image[top:top + 24, left:left + 32] += 100
    return images.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def detector(request):
    every = " + ".join(name for name in SCORES if name not in MARKS)
    return Detector(**PLAIN | {"score": every, "damage": "texture"}, size=(64, 96), architecture_options=SMALL, steps=30, batch_size=4, precision=request.param, held_out_share=0.25, device="cpu").fit(plates(24), progress=False)


class TestArchitecture:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize("size", [(32, 32), (176, 976), (256, 256), (97, 131), (33, 47)])
    def test_any_size_goes_in_and_the_same_comes_out(self, name, size):
        image = torch.rand(2, 1, *size)
        marks_by_itself = ARCHITECTURES[name].marks
        answer = build_model(name, width=4, head_width=0 if marks_by_itself else 4).eval()(image)
        assert answer.image.shape == image.shape and answer.logits.shape == (2, *size)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize("options", [{"stem": 1}, {"stem": 4}, {"dilations": (1, 2, 4)}, {"cutoff": 30.0}, {"normalisation": "group"}, {"normalisation": "none"}, {"dense_code": 8, "image_size": (64, 64)}, {"depth": 1}], ids=str)
    def test_every_option_trains(self, name, options):
        model = build_model(name, width=4, bottleneck=8, **options)
        model(torch.rand(2, 1, 64, 64)).image.square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())

    def test_the_default_size_needs_no_padding(self):
        assert build_model().encode(torch.zeros(1, 1, 176, 976))[-1].shape[-2:] == (11, 61)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize("budget", [300_000, 1_000_000])
    def test_matched_parameters_agree_within_two_percent(self, name, budget):
        assert abs(count_parameters(build_model(name, width=match_parameters(name, budget))) / budget - 1) < 0.02

    def test_arithmetic_is_counted_as_torch_counts_it(self):
        from torch.utils.flop_counter import FlopCounterMode
        model = build_model("unet", width=8).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad(): model(torch.zeros(1, 1, 64, 96))
        assert count_macs(model, (64, 96)) == counter.get_total_flops() // 2

    def test_without_skips_nothing_passes_but_the_bottleneck(self):
        "A change of the fine levels' features does not reach the reconstruction; with skips it does."
        for name, passes in (("autoencoder", False), ("unet", True), ("gated", True)):
            model = build_model(name, width=4).eval()
            features = model.encode(torch.rand(1, 1, 64, 64))
            changed = (features[0] + 1, *features[1:])
            assert (not torch.equal(model.decoder(features), model.decoder(changed))) == passes


class TestTraining:
    @given(n=st.integers(1, 40), batch=st.integers(1, 16), seed=st.integers(0, 9))
    @settings(max_examples=40, deadline=None)
    def test_no_image_is_left_out_of_a_pass(self, n, batch, seed):
        drawn = np.concatenate([batch_indices(n, batch, seed, step) for step in range(n)])
        assert (np.bincount(drawn, minlength=n) == batch).all()

    def test_two_steps_never_see_the_same_damage(self):
        data = TrainingData(plates(4), parse_damage("texture", 1.0))
        same = TrainingSettings(batch_size=4)
        seen = [data.batch(step, same, torch.device("cpu"))[2].sum().item() for step in range(6)]
        assert len(set(seen)) > 3

    def test_a_region_takes_the_rest_out_of_loss_and_damage(self):
        region = np.zeros((64, 96), bool); region[:, :48] = True
        _, _, mask, weight, _ = TrainingData(plates(8), parse_damage("texture", 1.0), region=region).batch(0, STILL, torch.device("cpu"))
        assert mask[:, :, :48].any() and not mask[:, :, 48:].any()
        assert weight[:, :, :48].all() and not weight[:, :, 48:].any()

    def test_crops_move_image_and_region_alike(self):
        region = plates(1)[0] > 140
        given, _, _, weight, _ = TrainingData(np.repeat(np.where(region, 200, 50).astype(np.uint8)[None], 4, 0), region=region).batch(0, STILL.changed(crop=(32, 32)), torch.device("cpu"))
        assert torch.equal(given[:, 0] > 0.5, weight > 0.5)

    def test_a_head_learns_with_the_network(self):
        history = train(build_model(head_width=4, **SMALL), TrainingData(plates(8), parse_damage("strokes", 1.0)), parse_loss("mse"), STILL.changed(steps=40, batch_size=4, learning_rate=5e-3), "cpu", progress=False)
        assert history[-1]["segmentation"] < history[0]["segmentation"]


class TestDetector:
    def test_a_score_never_depends_on_its_neighbours(self, detector):
        images = plates(9, seed=5)
        together = detector.predict(images)
        for number in (0, 4, 8): assert torch.equal(together.anomaly_map[number], detector.predict(images[number:number + 1]).anomaly_map[0])
        assert torch.equal(detector.anomaly_score(images[::-1].copy()), together.anomaly_score.flip(0))

    def test_a_reload_changes_no_bit(self, detector, tmp_path):
        images = plates(3, seed=6)
        again = Detector.load(detector.save(tmp_path / "a" / "plates.safetensors"), "cpu")
        assert again.settings == detector.settings and again.threshold_ == detector.threshold_
        assert torch.equal(again.predict(images).anomaly_map, detector.predict(images).anomaly_map)

    def test_its_file_holds_tensors_and_json_alone(self, detector, tmp_path):
        with safe_open(detector.save(tmp_path / "plates.safetensors"), "pt") as file:
            assert json.loads(file.metadata()["recon_ad"])["settings"]["size"] == [64, 96]
        (tmp_path / "other.safetensors").write_bytes((tmp_path / "plates.safetensors").read_bytes()[:100])
        with pytest.raises(ValueError, match="other.safetensors is not a detector file"):
            Detector.load(tmp_path / "other.safetensors", "cpu")

    def test_what_is_reached_on_held_out_damage_is_told_and_kept(self, tmp_path):
        options = dict(size=(64, 96), architecture_options={"width": 8}, steps=20, batch_size=4, device="cpu", damage="stains")
        fit = lambda **how: Detector(**options).fit(plates(20), progress=False, threads=1, **how)
        fitted = fit(checkpoint=tmp_path / "run")
        asked = [row for row in fitted.history_ if "held_out_ap" in row]
        assert [row["step"] for row in asked] == [10, 20] and all(0 < row["held_out_ap"] <= 1 for row in asked)
        assert fit(checkpoint=tmp_path / "run").history_ == fit().history_ == fitted.history_  # asking changes nothing
        assert Detector.load(fitted.save(tmp_path / "a.safetensors"), "cpu").history_ == fitted.history_
        silent = Detector(**options | {"damage": "none", "steps": 1, "score": "residual"}).fit(plates(20), progress=False)
        assert not any("held_out_ap" in row for row in silent.history_)

    def test_16_bit_and_8_bit_agree(self, detector):
        images = plates(2, seed=7)
        assert torch.allclose(detector.anomaly_map(images), detector.anomaly_map(images.astype(np.uint16) * 257), atol=1e-3)  # of a map that spreads over tens

    def test_nothing_outside_a_region_raises_an_alarm(self):
        region = np.zeros((64, 96), bool); region[:, :48] = True
        fitted = Detector(**PLAIN, size=(64, 96), architecture_options=SMALL, steps=20, batch_size=4, held_out_share=0.25, device="cpu").fit(plates(20), region=region, progress=False)
        clean = plates(1, seed=8); broken = clean.copy(); broken[:, 20:40, 70:90] = 255
        score = lambda image: fitted.anomaly_score(image).item()
        assert fitted.predict(broken).anomaly_map[0][:, 48:].max() <= fitted.predict(broken).anomaly_map[0][:, :48].min() + 1e-6
        assert score(broken) < score(clean) + abs(score(clean)) + 5

    def test_names_of_an_earlier_calibration_are_forgotten(self, detector):
        twin, images = detector.copy(), plates(24, seed=9)
        twin.held_out_names_ = [f"{number}.png" for number in range(len(twin.held_out_scores_))]
        twin.calibrate(images[6:], images[:6])
        assert len(twin.held_out_scores_) == 6 and twin.held_out_names_ is None and held_out_of(twin).names is None

    def test_what_is_wrong_is_said(self, detector):
        with pytest.raises(ValueError, match="64 x 96"): detector.predict(plates(1, (64, 128)))
        with pytest.raises(ValueError, match="known are"): Detector(learning_rat=1.0)
        with pytest.raises(ValueError, match="known are"): Detector(score="residual + magic")
        with pytest.raises(ValueError, match="at least"): Detector(**PLAIN, size=(64, 96), steps=1, held_out_share=0.5, device="cpu").fit(plates(1), progress=False)


class TestWhatTrainingHasShown:
    @pytest.fixture
    def files(self, tmp_path):
        paths = [tmp_path / f"{number}.png" for number in range(9)]
        for path, image in zip(paths, plates(9, (128, 192))): Image.fromarray(image).save(path)
        return paths

    @pytest.fixture
    def told(self, files):
        return Detector(**PLAIN, size=(64, 96), architecture_options=SMALL, steps=2, batch_size=2, held_out_share=0.3, device="cpu").fit(files, progress=False)

    def test_it_is_kept_in_the_file(self, told, tmp_path):
        again = Detector.load(told.save(tmp_path / "a.safetensors"), "cpu")
        assert again.shown_ == told.shown_ and told.shown_.bits == (8,)
        assert (told.shown_.height, told.shown_.width) == ((128, 128), (192, 192))

    def test_arrays_tell_gray_alone_unless_their_files_are_named(self, told, files):
        images, blank = told.images(files), Detector(told.settings, "cpu")
        assert blank.remember(images).shown_.proportions == () and blank.shown_.mean == told.shown_.mean
        assert blank.remember(images, files).shown_ == told.shown_

    @pytest.mark.parametrize("change, said", [
        (lambda image: image, []),
        (lambda image: np.concatenate([image, image], 1), ["proportions"]),
        (lambda image: image[::5, ::5], ["pixels"]),
        (lambda image: image.astype(np.uint16) * 257, ["16 bits"]),
        (lambda image: image.astype(np.uint16) * 16, ["16 bits", "mean gray", "contrast"]),
        (lambda image: image // 5, ["mean gray", "contrast"]),
        (lambda image: np.full_like(image, int(image.mean())), ["contrast"]),
    ], ids=["as_training", "wide", "tiny", "deep", "twelve_bits", "dark", "flat"])
    def test_what_speaks_against_a_picture_is_named(self, told, tmp_path, change, said):
        image = change(plates(1, (128, 192), seed=5)[0])
        Image.fromarray(image).save(tmp_path / "new.png")
        for given in (image, tmp_path / "new.png", str(tmp_path / "new.png"), [Image.open(tmp_path / "new.png")]):
            reasons = told.reasons_against(given)
            assert len(reasons) == len(said) and all(word in reason for word, reason in zip(said, reasons))

    def test_a_defect_is_no_reason(self, told):
        image = plates(1, (128, 192), seed=5)[0]
        image[:2] = 255
        assert told.reasons_against(image) == []

    def test_a_path_is_enough(self, told, files):
        single = told.predict(files[0]).anomaly_map
        for given in (str(files[0]), Image.open(files[0]), [files[0]]): assert torch.equal(told.predict(given).anomaly_map, single)


class TestCalibration:
    def test_rarity_is_learnt_where_a_surprisal_asks_for_it(self, monkeypatch, tmp_path):
        asked, settle = [], Score.settle
        monkeypatch.setattr(Score, "settle", lambda self, raws: asked.append(len(raws)) or settle(self, raws))
        fitted = Detector(**PLAIN, size=(64, 96), architecture_options=SMALL, steps=2, batch_size=2, held_out_share=0.3, device="cpu").fit(plates(10), progress=False)
        again = Detector.load(fitted.save(tmp_path / "a.safetensors"), "cpu")
        assert not asked
        raw = fitted.raw(fitted.observe(to_float(plates(1))))
        found = fitted.judge(raw, "surprisal(residual + latent)")[0]
        assert asked == [3] and found.isfinite().all()
        fitted.settings = fitted.settings.changed(score="surprisal(residual + latent)")
        fitted.calibrate(plates(10)[:7], plates(10)[7:])
        assert asked == [3, 3]
        with pytest.raises(RuntimeError, match="does not say how rare"): again.judge(raw, "surprisal(residual)")

    def test_names_and_places_belong_to_the_pictures_that_calibrated(self, detector):
        images, twin = plates(24), detector.copy()
        twin.held_out_names_ = [str(number) for number in twin.held_out_]
        kept = np.setdiff1d(np.arange(24), twin.held_out_)
        twin.calibrate(images[kept], images[detector.held_out_])
        assert len(twin.held_out_names_) == 6 and twin.held_out_ is not None
        twin.calibrate(images[kept], plates(6, seed=9))
        assert twin.held_out_names_ is None and twin.held_out_ is None and held_out_of(twin).places is None


class TestScores:
    @pytest.mark.parametrize("name", [name for name in SCORES if name not in (*MARKS, "mahalanobis", "decoder_mahalanobis")])
    def test_a_perfect_reconstruction_has_no_anomaly(self, name):
        image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        features = build_model(**SMALL).eval().encode(image)
        seen = Observation(image, image, features, features)
        score = Score(name, calibrated=False); score.fit_batch(seen)
        assert score(seen).abs().max() < 1e-4

    def test_fusion_is_linear_in_its_weights(self, detector):
        seen = detector.observe(torch.rand(1, 1, 64, 96))
        raw = detector.score_.raw(seen)
        both = detector.score_.combine(raw, "2*residual + 0.5*latent")
        assert torch.allclose(both, 2 * detector.score_.combine(raw, "residual") + 0.5 * detector.score_.combine(raw, "latent"), atol=1e-4)

    @given(st.lists(st.floats(-50, 50), min_size=2, max_size=60, unique=True), st.floats(0.01, 0.9))
    @settings(max_examples=60, deadline=None)
    def test_the_threshold_keeps_its_promise_exactly(self, values, rate):
        "Of n + 1 exchangeable scores, each being the new one in turn, at most the promised share exceed the threshold of the others."
        scores = torch.tensor(values, dtype=torch.float64)
        exceed = [scores[i] > threshold(torch.cat((scores[:i], scores[i + 1:])).float(), rate)[0] + 1e-4 for i in range(len(scores))]
        promised = threshold(scores[1:].float(), rate)[1]
        assert float(np.mean(exceed)) <= promised + 1e-9

    def test_calibration_survives_two_strange_images(self):
        maps = torch.rand(40, 32, 48, generator=torch.Generator().manual_seed(0))
        plain, strange = PlaceStatistics(), PlaceStatistics()
        plain.fit_batch(maps); strange.fit_batch(torch.cat((maps[2:], maps[:2] + 100)))
        assert (strange(maps[:1]) - plain(maps[:1])).abs().mean() < 0.3

    @given(st.integers(1, 30))
    @settings(max_examples=20, deadline=None)
    def test_the_top_mean_never_exceeds_the_maximum(self, top):
        maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(top))
        assert (image_score(maps, top) <= image_score(maps) + 1e-6).all()
        assert list(MAPS) == ["residual", "ssim", "ms_gms"]


class TestHeldOut:
    def test_the_exam_is_not_trained_on_and_fits_every_size(self):
        for size in ((64, 96), (97, 131), (176, 976)):
            images, masks = damaged_copies(plates(4, size), VALIDATION_DAMAGE, seed=1)
            assert masks.flatten(1).any(1).all()
            # noise patches leave changes too faint to be marked: under four gray levels
            assert (images - to_float(plates(4, size)))[:, 0][~masks].abs().max() < 4 / 255 + 1e-6

    def test_a_worse_view_gets_a_worse_mark(self, detector):
        held_out = plates(24)[detector.held_out_]
        figures = validation_metrics(detector, held_out, ["residual", "latent"])
        assert set(figures) == {"residual", "latent"} and all(0 <= value <= 1 for row in figures.values() for value in row.values())

    def test_choosing_leaves_one_of_the_candidates(self, detector):
        twin = detector.copy()
        choose_score(twin, plates(24))
        assert twin.settings.score in CANDIDATES and set(twin.score_.weights) == set(parse_scores(twin.settings.score))
        assert np.isfinite(twin.threshold_) and set(detector.score_.weights) == set(SCORES) - set(MARKS)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    "A folder of twelve good plates."
    folder = tmp_path_factory.mktemp("parts")
    (folder / "train" / "good").mkdir(parents=True)
    for number, image in enumerate(plates(12)): Image.fromarray(image).save(folder / "train" / "good" / f"{number:03}.png")
    return folder


def learn(parts, file, *words): return main(["train", str(parts), str(file), "--size", "64x96", "--steps", "2", "--batch-size", "2", "--device", "cpu", "--quiet", *map(str, words)])


class TestCommand:
    def test_training_repairs_damage_as_the_images_look(self, parts, tmp_path, capsys):
        assert learn(parts, tmp_path / "a.safetensors") == 0
        said = capsys.readouterr().out
        assert "damage in training: parts; probability=0.6, times=2" in said and "stretched" not in said
        assert "on average at most 33.3% false alarms, from 2 held-out good images; for 0.01 it takes 99 held-out ones, 660 good images in all at --held-out-share 0.15" in said
        settings = Detector.load(tmp_path / "a.safetensors", "cpu").settings
        assert settings.damage.startswith("parts; probability=0.6, times=2") and settings.flips == ""
        assert (settings.architecture, settings.foreground, settings.score) == ("marking", "auto", DetectorSettings().score)

    def test_other_ways_are_taken_on_request(self, parts, tmp_path, capsys, monkeypatch):
        chosen = []
        monkeypatch.setattr("recon_ad.validation.choose_score", lambda detector, good: chosen.append(len(good)))
        assert learn(parts, tmp_path / "b.safetensors", "--damage", "none", "--score", "auto", "--held-out-share", "0.4", "--crop", "32x32", "--size", "32x96") == 0
        said = capsys.readouterr().out
        assert chosen == [12] and "damage in training: none" in said and "from 5 held-out" in said
        assert "images of 64 x 96 (height x width) are stretched to 32 x 96; train with --size 48x64 or --resize pad" in said
        settings = Detector.load(tmp_path / "b.safetensors", "cpu").settings
        assert (settings.damage, settings.foreground, settings.crop) == ("none", "auto", (32, 32))

    @pytest.mark.parametrize("words, message", [
        (["--false-alarm-rate", "0"], "must be in (0, 1), got 0.0"), (["--held-out-share", "1"], "must be in (0, 1), got 1.0"), (["--sigma", "-1"], "must be 0 or in [0.05, 1000] pixels, got -1.0"),
        (["--minutes", "0"], "minutes above 0"), (["--size", "0x10"], "HEIGHTxWIDTH"), (["--crop", "9"], "HEIGHTxWIDTH"), (["--crop", "64x32", "--size", "32x96"], "crop must be within the size"), (["--steps", "0"], "must be >= 1, got 0"),
        (["--resize", "squeeze"], "squeeze"), (["--architecture", "unit"], "unit"), (["--foreground", "thing"], "thing"), (["--device", "gpu"], "got 'gpu'"), (["--device", "cuda:99"], "not in this machine"),
    ], ids=lambda value: "_".join(value) if isinstance(value, list) else "")
    def test_a_wrong_value_is_one_line_before_anything_is_read(self, tmp_path, capsys, words, message):
        try: code = main(["train", str(tmp_path / "nowhere"), str(tmp_path / "a.safetensors"), *words])
        except SystemExit as stop: code = stop.code
        error = capsys.readouterr().err
        assert code in (1, 2) and message in error and error.startswith("recon_ad") and error.count("\n") == 1 and "nowhere" not in error

    def test_a_wrong_name_for_the_detector_is_one_line(self, parts, capsys):
        with pytest.raises(SystemExit): learn(parts, "parts.pt")
        assert "must end in .safetensors" in (error := capsys.readouterr().err) and error.count("\n") == 1

    def test_the_settings_name_what_the_library_has(self):
        "They are written out where nothing waits for PyTorch."
        rules = {field.name: field.metadata for field in dataclasses.fields(DetectorSettings)}
        assert all(name in rules["architecture"]["about"] for name in ARCHITECTURES)
        assert all(name in rules["marking"]["about"] for name in MARKING_LOSSES)
        assert [name for name in ("stretch", "pad", "crop", "fit") if rules["resize"]["rule"].holds(name)] == list(FITS)

    def test_an_unreadable_image_stops_no_other(self, detector, tmp_path, capsys):
        file, images = detector.save(tmp_path / "plates.safetensors"), tmp_path / "images"
        (images / "deeper").mkdir(parents=True)
        for name, image in zip(("a.jpg", "a.png", "deeper/z.png"), plates(3, seed=4)): Image.fromarray(image).save(images / name)
        (images / "bad.png").write_bytes(b"no image")
        assert main(["predict", str(file), str(images), "--out", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == 3
        said = capsys.readouterr()
        assert said.err.startswith("recon_ad: predict: bad.png undecided: cannot be read: ") and said.err.count("\n") == 1 and "of 4 files are defective, 1 undecided" in said.out
        with open(tmp_path / "out" / "scores.csv", newline="") as table: rows = list(csv.DictReader(table))
        assert [row["file"] for row in rows] == ["a.jpg", "a.png", "bad.png", "deeper/z.png"]
        judged = [row for row in rows if row["file"] != "bad.png"]
        assert [float(row["score"]) for row in judged] == detector.anomaly_score([images / row["file"] for row in judged]).tolist()
        for kind in ("heatmaps", "overlays"): assert sorted(path.name for path in (tmp_path / "out" / kind).rglob("*.png")) == ["a.jpg.png", "a.png.png", "z.png.png"]

    def test_what_is_no_detector_is_one_line(self, parts, capsys):
        assert main(["predict", str(parts / "train" / "good" / "000.png"), str(parts)]) == 1
        error = capsys.readouterr().err
        assert "000.png is not a detector file" in error and error.count("\n") == 1

    def test_too_few_good_images_are_a_problem(self, tmp_path, capsys):
        (tmp_path / "train" / "good").mkdir(parents=True)
        for number, image in enumerate(plates(2)): Image.fromarray(image).save(tmp_path / "train" / "good" / f"{number}.png")
        assert main(["check", str(tmp_path)]) == 1
        assert "1 problem\n  train/good: 2 good images, training needs at least 10" in capsys.readouterr().out
        assert learn(tmp_path, tmp_path / "a.safetensors") == 1 and "at least 10" in capsys.readouterr().err

    def test_errors_are_one_line_and_debug_shows_more(self, tmp_path, capsys):
        assert main(["check", str(tmp_path / "nowhere")]) == 1
        capsys.readouterr()
        assert main(["predict", str(tmp_path / "no.safetensors"), str(tmp_path)]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        assert main(["predict", str(tmp_path / "no.safetensors"), str(tmp_path), "--debug"]) == 1
        assert "Traceback" in capsys.readouterr().err
        with pytest.raises(SystemExit) as stop: main(["train"])
        assert stop.value.code == 2

    def test_ctrl_c_loses_at_most_the_step_in_hand(self, tmp_path):
        file, damage, calls = tmp_path / "run.checkpoint", parse_damage("stains"), []
        class Interrupted:
            "The same damage; presses Ctrl-C at its fourth call."
            def __str__(self): return str(damage)
            def __call__(self, *arguments, **more):
                calls.append(None)
                if len(calls) == 4: signal.raise_signal(signal.SIGINT)
                return damage(*arguments, **more)
        def run(damage, checkpoint=None):
            model = build_model(**SMALL)
            train(model, TrainingData(plates(8), damage), parse_loss("mse + ssim"), TrainingSettings(steps=6, batch_size=2), "cpu", checkpoint, progress=False)
            return model.state_dict().values()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt, match="after step 4 of 6; run.checkpoint holds the training so far"): run(Interrupted(), file)
            with interrupts_kept() as came:
                signal.raise_signal(signal.SIGINT)
                assert came == [signal.SIGINT]
                with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGINT)  # the second one interrupts
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally: signal.signal(signal.SIGINT, before)
        assert read_checkpoint(file)["step"] == 4
        assert all(torch.equal(*pair) for pair in zip(run(damage, file), run(damage)))

    def test_a_checkpoint_of_other_settings_is_refused(self, tmp_path):
        file = tmp_path / "run.checkpoint"
        fit = lambda steps: Detector(**PLAIN, size=(64, 96), architecture_options=SMALL, steps=steps, batch_size=2, held_out_share=0.25, device="cpu").fit(plates(8), checkpoint=file, progress=False)
        fit(2)
        with pytest.raises(ValueError, match="steps 2 there, 3 here"): fit(3)

    def test_a_checkpoint_of_other_images_or_damage_is_refused_and_time_takes_its_steps(self, tmp_path):
        file = tmp_path / "run.checkpoint"
        def fit(images, seconds=None, **more):
            made = Detector(**PLAIN | more, size=images.shape[1:], architecture_options=SMALL, batch_size=2, held_out_share=0.25, device="cpu")
            return made.fit(images, seconds=seconds, checkpoint=file, progress=False)
        first = fit(plates(8), steps=3)
        again = fit(plates(8), seconds=1e-9)
        assert again.settings.steps == 3 and all(torch.equal(*pair) for pair in zip(first.model_.state_dict().values(), again.model_.state_dict().values()))
        for images, more, said in ((plates(8, seed=1), {}, "images '6 x 64 x 96 "), (plates(9), {}, "images"), (plates(8, (64, 64)), {}, "6 x 64 x 64"),
                                   (plates(8), {"damage": "stains"}, "damage 'none' there"), (plates(8), {"loss": "mse"}, "loss "), (plates(8), {"architecture": "unet"}, "network 'Autoencoder")):
            with pytest.raises(ValueError, match=said): fit(images, steps=3, **more)
        file.write_text("some text")
        with pytest.raises(ValueError, match="is no checkpoint"): fit(plates(8), seconds=1.0)


def test_settings_are_plain_values():
    assert DetectorSettings().changed(flips="h").flips == "h"
    assert json.dumps(DetectorSettings().changed(size=(64, 64)).size)

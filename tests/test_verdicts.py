"Verdicts: a line for every file, nothing good because something broke, a table that is whole or old."
import csv
import json
import math
import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from plates import plates, save
from recon_ad import __version__
from recon_ad.calibration import false_alarm_interval
from recon_ad.cli import main
from recon_ad.data import restore_map
from recon_ad.detector import Detector
from recon_ad.verdicts import (
    Drawing, Verdict, as_cell, brightest_value, judge_files, locate, picture_name, plain_name, promise_note, shrink,
)


def scratched(seed=9):
    "A plate with a white bar, far above anything usual."
    image = plates(1, seed)[0]
    image[5:9, 70:90] = 255
    return image


@pytest.fixture(scope="module")
def detector():
    options = {"width": 4, "depth": 2, "bottleneck": 4}
    made = Detector(
        size=(64, 96), architecture="autoencoder", architecture_options=options, damage="none", score="residual", top_k=1, crop=None, steps=20,
        batch_size=4, precision="float32", held_out_share=0.4, false_alarm_rate=0.1, learning_rate=5e-3, device="cpu",
    ).fit(plates(48), progress=False)
    made.held_out_names_ = [f"{number:02}.png" for number in made.held_out_]
    made.threshold_ *= 1.5  # the pictures below are meant to be clear cases
    return made


@pytest.fixture
def file(detector, tmp_path): return detector.save(tmp_path / "plates.safetensors")


def predict(file, folder, out, *words):
    "The exit code of the command."
    return main(["predict", str(file), str(folder), "--out", str(out), "--device", "cpu", "--quiet", *map(str, words)])


def rows_of(out):
    "The table, a dictionary a line."
    with open(out / "scores.csv", newline="", encoding="utf-8") as table: return list(csv.DictReader(table))


@pytest.fixture
def line(tmp_path):
    "What lies in a folder on a shop floor."
    folder = tmp_path / "line"
    save(plates(1, 5)[0], folder / "good.png")
    save(plates(1, 6)[0], folder / "deeper" / "a.png")
    save(scratched(), folder / "deeper" / "a.bmp")
    save(plates(1, 7)[0], folder / "=cmd.png")
    save(plates(1, 8)[0], folder / os.fsdecode(b"n\xff.png"))
    save(plates(1, 8)[0], folder / r"n\xff.png")
    save(np.full((64, 96), 128, np.uint8), folder / "gray.png")
    save(np.full((1, 1), 9, np.uint8), folder / "dot.png")
    save(plates(1, 4)[0], folder / ".hidden.png")
    (folder / "half.png").write_bytes((folder / "good.png").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("Tuesday, late shift")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")
    (folder / "linked.png").symlink_to("good.png")
    (folder / "all").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    return folder


class TestTable:
    def test_every_file_has_a_line_and_nothing_is_good_because_it_broke(self, file, line, tmp_path, capsys):
        assert predict(file, line, tmp_path / "out") == 3
        rows = rows_of(tmp_path / "out")
        assert list(rows[0]) == ["file", "verdict", "score", "threshold", "peak_x", "peak_y", "area", "error", "heatmap", "overlay"]
        said = {row["file"]: (row["verdict"], row["error"].split(":")[0]) for row in rows}
        assert said == {
            "'=cmd.png": ("good", ""), "all": ("undecided", "a link to a folder, which is not followed"),
            "deeper/a.bmp": ("defective", ""), "deeper/a.png": ("good", ""), "dot.png": ("undecided", "1 x 1 pixels show no part"),
            "empty.png": ("undecided", "cannot be read"), "gone.png": ("undecided", "a link to nothing"), "good.png": ("good", ""),
            "gray.png": ("undecided", "no contrast"), "half.png": ("undecided", "cannot be read"), "linked.png": ("good", ""),
            r"n\\xff.png": ("good", ""), r"n\xff.png": ("good", ""), "notes.txt": ("undecided", "no picture"),
            "pipe.png": ("undecided", "no file that could be read"), "round.png": ("undecided", "a link to nothing"),
        }
        assert len(rows) == len(said) and [row["file"] for row in rows][2:5] == ["deeper/a.bmp", "deeper/a.png", "dot.png"]
        told = capsys.readouterr()
        assert "1 of 16 files are defective, 9 undecided; " in told.out
        assert told.err.count("recon_ad: predict: ") == 9 and "half.png undecided: cannot be read: " in told.err

    def test_its_values_are_those_of_the_picture(self, detector, file, tmp_path):
        image = scratched().repeat(5, 0).repeat(5, 1)
        path = save(image, tmp_path / "new" / "big.png")
        assert predict(file, tmp_path / "new", tmp_path / "out") == 0
        (row,) = rows_of(tmp_path / "out")
        found = detector.predict([path])
        full = restore_map(found.anomaly_map[0].numpy(), (320, 480))
        assert float(row["score"]) == found.anomaly_score.item() and float(row["threshold"]) == detector.threshold_
        assert full[int(row["peak_y"]), int(row["peak_x"])] == full.max()
        assert 340 <= int(row["peak_x"]) < 460 and 20 <= int(row["peak_y"]) < 50   # on the bar, or at its rim
        assert int(row["area"]) == (full > detector.threshold_).sum() > 0
        assert row["verdict"] == "defective" and row["error"] == ""

    def test_pictures_lie_where_the_table_says(self, file, line, tmp_path):
        predict(file, line, tmp_path / "out")
        for row in rows_of(tmp_path / "out"):
            judged = bool(row["score"])
            for kind in ("heatmap", "overlay"):
                assert bool(row[kind]) == judged
                if judged: assert Image.open(tmp_path / "out" / row[kind]).mode == "RGB"
        drawn = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out" / "overlays").rglob("*.png")]
        assert len(drawn) == 9 and {"overlays/deeper/a.png.png", "overlays/deeper/a.bmp.png", "overlays/=cmd.png.png"} < set(drawn)

    def test_names_of_pictures_do_not_depend_on_neighbours(self, file, tmp_path):
        image = save(plates(1, 5)[0], tmp_path / "one" / "a.png")
        predict(file, image, tmp_path / "single")
        predict(file, image.parent, tmp_path / "folder")
        save(plates(1, 6)[0], tmp_path / "one" / "a.bmp")
        predict(file, image.parent, tmp_path / "both")
        for out in ("single", "folder", "both"): assert rows_of(tmp_path / out)[-1]["overlay"] == "overlays/a.png.png"

    def test_one_file_that_was_named_is_tried(self, file, line, tmp_path):
        assert predict(file, line / "notes.txt", tmp_path / "out") == 3
        assert rows_of(tmp_path / "out")[0]["error"].startswith("cannot be read")
        assert predict(file, line / "good.png", tmp_path / "out") == 0
        assert [row["verdict"] for row in rows_of(tmp_path / "out")] == ["good"]

    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("what", ["anomaly_score", "anomaly_map"])
    def test_what_is_no_number_is_undecided(self, file, line, tmp_path, monkeypatch, broken, what):
        whole = Detector.stream
        def stream(self, images):
            for found in whole(self, images):
                value = getattr(found, what).clone()
                value.view(-1)[0] = broken
                yield found._replace(**{what: value})
        monkeypatch.setattr(Detector, "stream", stream)
        assert predict(file, line, tmp_path / "out", "--no-pictures") == 3
        rows = rows_of(tmp_path / "out")
        assert {row["verdict"] for row in rows} == {"undecided"} and all(row["error"] for row in rows)
        wrong = [row for row in rows if row["error"] in (f"the score is {broken}", "the map holds values that are not finite")]
        assert len(wrong) == 9 and all((row["score"] == "") == (what == "anomaly_score") for row in wrong)

    def test_a_folder_that_may_not_be_read_has_a_line(self, file, line, tmp_path, monkeypatch):
        scan = os.scandir
        def scandir(folder):
            if str(folder).endswith("deeper"): raise PermissionError(13, "Permission denied")
            return scan(folder)
        monkeypatch.setattr(os, "scandir", scandir)
        assert predict(file, line, tmp_path / "out", "--no-pictures") == 3
        rows = {row["file"]: row for row in rows_of(tmp_path / "out")}
        assert (rows["deeper"]["verdict"], rows["deeper"]["error"]) == ("undecided", "a folder that cannot be read: Permission denied")

    def test_cells_that_begin_like_a_formula_are_texts(self):
        assert [as_cell(start + "x") for start in "=+-@\t\r"] == ["'" + start + "x" for start in "=+-@\t\r"]
        assert [as_cell(value) for value in ("a=b", -1.5, None, "")] == ["a=b", -1.5, "", ""]
        assert as_cell(os.fsdecode(b"\xfe")) == r"\xfe"

    def test_no_two_names_become_one(self):
        names = [os.fsdecode(name) for name in (b"a\xff", rb"a\xff", rb"a\\xff", b"a\xc3\xbf")]
        assert len({plain_name(name) for name in names}) == 4
        for name in names: plain_name(name).encode()
        long = [picture_name("folder/" + 250 * letter) for letter in "ab"] + [picture_name("b" * 249 + "a")]
        assert len(set(long)) == 3 and all(len(name.split("/")[-1].encode()) <= 255 for name in long)


class TestFailures:
    def first(self, file, line, out):
        predict(file, line, out, "--no-pictures")
        return (out / "scores.csv").read_bytes()

    @pytest.mark.parametrize("error, code", [(RuntimeError("out of memory"), 1), (OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)])
    def test_an_old_table_survives(self, file, line, tmp_path, monkeypatch, error, code):
        before = self.first(file, line, tmp_path / "out")
        whole = Detector.stream
        def stream(self, images):
            yield next(whole(self, images))
            raise error
        monkeypatch.setattr(Detector, "stream", stream)
        assert predict(file, line, tmp_path / "out", "--no-pictures") == code
        assert (tmp_path / "out" / "scores.csv").read_bytes() == before
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.csv"]   # nothing half done

    def test_a_picture_that_cannot_be_written_is_an_error_of_its_own_name(self, file, line, tmp_path, capsys):
        before = self.first(file, line, tmp_path / "out")
        (tmp_path / "out" / "heatmaps").write_text("no folder")
        capsys.readouterr()
        assert predict(file, line, tmp_path / "out") == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("recon_ad: predict: cannot write ") and "/heatmaps/" in error
        assert (tmp_path / "out" / "scores.csv").read_bytes() == before

    def test_nothing_to_judge_is_an_error(self, file, tmp_path, capsys):
        (tmp_path / "nothing").mkdir()
        assert predict(file, tmp_path / "nothing", tmp_path / "out") == 1 and predict(file, tmp_path / "nowhere", tmp_path / "out") == 1
        assert not (tmp_path / "out").exists()

    def test_a_name_that_is_no_utf8_can_be_told(self, file, line, tmp_path, capsys):
        assert predict(file, line / "good.png", tmp_path / os.fsdecode(b"o\xff"), "--no-pictures") == 0
        assert r"o\xff/scores.csv" in capsys.readouterr().out


class TestEarlierOutput:
    def test_it_is_not_judged(self, file, line, monkeypatch):
        file = file.rename(line / "plates.safetensors")                # the detector is no part either
        monkeypatch.chdir(line)
        for _ in range(2):
            assert main(["predict", str(file), ".", "--device", "cpu", "--quiet"]) == 3   # verdicts/, in the folder itself
            assert len(rows_of(line / "verdicts")) == 16

    def test_nor_where_it_goes_into_the_folder_itself(self, file, line):
        for _ in range(2):
            predict(file, line, line)
            assert len(rows_of(line)) == 16

    def test_what_is_called_alike_elsewhere_is_judged(self, file, tmp_path):
        save(plates(1, 5)[0], tmp_path / "new" / "deeper" / "overlays" / "a.png")
        assert predict(file, tmp_path / "new", tmp_path / "new" / "out") == 0
        assert [row["file"] for row in rows_of(tmp_path / "new" / "out")] == ["deeper/overlays/a.png"]


class TestWords:
    def test_another_threshold_for_this_run(self, detector, file, line, tmp_path):
        before = file.read_bytes()
        predict(file, line, tmp_path / "out", "--threshold", "-1000000000", "--only-defective")
        rows = rows_of(tmp_path / "out")
        assert Counter(row["verdict"] for row in rows) == {"defective": 7, "undecided": 9}
        assert {float(row["threshold"]) for row in rows} == {-1e9}
        predict(file, line, tmp_path / "out", "--threshold=1e9")
        assert Counter(row["verdict"] for row in rows_of(tmp_path / "out")) == {"good": 7, "undecided": 9}
        assert file.read_bytes() == before
        for wrong in ("nan", "inf", "high"):
            with pytest.raises(SystemExit) as stop: predict(file, line, tmp_path / "out", f"--threshold={wrong}")
            assert stop.value.code == 2

    def test_which_pictures_are_written(self, file, line, tmp_path):
        predict(file, line, tmp_path / "none", "--no-pictures")
        assert [path.name for path in (tmp_path / "none").iterdir()] == ["scores.csv"]
        predict(file, line, tmp_path / "some", "--only-defective")
        drawn = sorted(path.name for path in (tmp_path / "some" / "heatmaps").rglob("*.png"))
        assert drawn == ["a.bmp.png", "dot.png.png", "gray.png.png"]
        filled = [row["file"] for row in rows_of(tmp_path / "some") if row["overlay"]]
        assert filled == ["deeper/a.bmp", "dot.png", "gray.png"]
        with pytest.raises(SystemExit) as stop: predict(file, line, tmp_path / "none", "--no-pictures", "--only-defective")
        assert stop.value.code == 2

    def test_large_pictures_are_drawn_small_and_measured_whole(self, file, tmp_path, monkeypatch):
        sizes = []
        monkeypatch.setattr("recon_ad.plots.overlay", lambda image, found, *more: sizes.append((image.shape, found.shape)) or np.zeros((*image.shape, 3), np.uint8))
        save(scratched().repeat(40, 0).repeat(40, 1), tmp_path / "new" / "big.png")
        assert predict(file, tmp_path / "new", tmp_path / "out") == 0
        assert predict(file, tmp_path / "new", tmp_path / "small", "--largest", 300) == 0
        assert sizes == [((1333, 2000), (1333, 2000)), ((200, 300), (200, 300))]     # reduced before it is coloured
        assert Image.open(tmp_path / "small" / "heatmaps" / "big.png.png").size == (300, 200)
        measured = [{key: rows_of(tmp_path / out)[0][key] for key in ("peak_x", "peak_y", "area", "score")} for out in ("out", "small")]
        assert measured[0] == measured[1] and int(measured[0]["peak_x"]) > 2000

    def test_the_help_names_the_exit_codes(self, capsys):
        with pytest.raises(SystemExit): main(["predict", "--help"])
        said = capsys.readouterr().out
        assert "exit code:\n  0  every file was judged" in said and "\n  3  some are undecided" in said and "\n  1  something went wrong" in said

    def test_the_version(self, capsys):
        with pytest.raises(SystemExit) as stop: main(["--version"])
        assert stop.value.code == 0 and capsys.readouterr().out == f"recon_ad {__version__}\n"


class TestDrawing:
    def test_sixteen_bits_are_drawn_as_eight(self):
        ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
        assert np.array_equal(shrink(ramp.astype(np.uint16) * 257, (8, 256)), ramp)
        small = shrink(ramp, (2, 64)).astype(float)
        assert np.abs(small[0] - ramp.reshape(8, 64, 4).mean((0, 2)))[2:-2].max() < 1.5

    def test_the_scale_is_above_zero_for_any_threshold(self):
        assert [brightest_value(value) for value in (2.0, 0.0, -3.0)] == [4.0, 1.0, 1.0]

    def test_places_undo_the_padding(self):
        spot = np.zeros((64, 96), np.float32)
        spot[32, 20] = 5
        assert locate(spot, (64, 64), "pad", 4.0) == (4, 32, 1)            # 16 columns were added on either side
        assert locate(spot, (64, 96), "stretch", 4.0) == (20, 32, 1)
        assert locate(spot, (128, 96), "crop", 4.0) == (20, 64, 1)

    def test_which(self):
        said = ("good", "defective", "undecided")
        assert [[Drawing(which).wants(verdict) for verdict in said] for which in ("all", "alarms", "none")] == [[True] * 3, [False, True, True], [False] * 3]


class TestThreshold:
    def test_it_comes_from_the_held_out_scores_and_all_else_stays(self, detector, file, tmp_path, capsys):
        ranked = detector.held_out_scores_.sort(descending=True).values
        assert len(ranked) == 19
        assert main(["threshold", str(file), "--rate", "0.2", "--out", str(tmp_path / "b.safetensors"), "--device", "cpu"]) == 0
        again, before = Detector.load(tmp_path / "b.safetensors", "cpu"), Detector.load(file, "cpu")
        assert again.threshold_ == ranked[3].item() and again.false_alarm_rate_ == 4 / 20
        assert again.settings == before.settings.changed(false_alarm_rate=0.2) and again.set_by_ == [detector.held_out_scores_.tolist().index(ranked[3].item())]
        assert again.held_out_names_ == detector.held_out_names_ and torch.equal(again.held_out_scores_, detector.held_out_scores_)
        assert torch.equal(again.predict(plates(2)).anomaly_map, before.predict(plates(2)).anomaly_map)
        found = false_alarm_interval(19, 4)
        said = capsys.readouterr().out
        assert f"threshold {before.threshold_:.6g} before, {again.threshold_:.6g} now" in said
        assert f"rests on 19 held-out images; of 1000 normal parts, 200 are expected to be called defective, 90 % interval {1000 * found.low:.3g} to {1000 * found.high:.3g}" in said
        assert "can be promised" not in said

    def test_it_is_written_to_the_same_file_and_a_rate_too_low_is_told(self, detector, file, capsys):
        assert main(["threshold", str(file), "--rate", "0.01", "--device", "cpu"]) == 0
        assert Detector.load(file, "cpu").threshold_ == detector.held_out_scores_.max().item()
        assert "note: 0.01 was asked for and 0.05 can be promised: that takes 99 held-out images" in capsys.readouterr().out
        assert main(["threshold", str(file), "--device", "cpu"]) == 0         # the rate of its settings, 0.01 by now
        assert Detector.load(file, "cpu").settings.false_alarm_rate == 0.01

    def test_other_good_pictures_take_the_place_of_those_held_out(self, detector, file, tmp_path, capsys):
        fresh = plates(9, seed=3)
        for number, image in enumerate(fresh): save(image, tmp_path / "fresh" / f"{number}.png")
        (tmp_path / "fresh" / "notes.txt").write_text("from the late shift")
        assert main(["threshold", str(file), "--rate", "0.1", "--good", str(tmp_path / "fresh"), "--device", "cpu"]) == 0
        again = Detector.load(file, "cpu")
        assert torch.equal(again.held_out_scores_, detector.anomaly_score(fresh)) and again.threshold_ == detector.anomaly_score(fresh).max().item()
        assert again.held_out_names_ == [f"{number}.png" for number in range(9)] and again.held_out_ is None
        assert "no picture that was trained on may be among these" in capsys.readouterr().out

    def test_good_pictures_that_cannot_be_judged_are_refused(self, file, line, tmp_path, capsys):
        before = file.read_bytes()
        (tmp_path / "set" / "train" / "good").mkdir(parents=True)
        for folder, message in ((line, "good pictures cannot be used: dot.png: 1 x 1"), (tmp_path / "set", "which was trained on"), (tmp_path / "set" / "train", "no images in")):
            assert main(["threshold", str(file), "--good", str(folder), "--device", "cpu"]) == 1
            assert message in capsys.readouterr().err and file.read_bytes() == before
        for wrong in ("0", "1", "5%"):
            with pytest.raises(SystemExit) as stop: main(["threshold", str(file), "--rate", wrong])
            assert stop.value.code == 2

    def test_a_file_without_held_out_scores_says_so(self, file, tmp_path, capsys):
        old = old_format(file, tmp_path / "old.safetensors")
        assert main(["threshold", str(old), "--rate", "0.2", "--device", "cpu"]) == 1
        assert "keeps no held-out scores" in capsys.readouterr().err

    def test_a_file_of_the_first_format_can_be_written_again(self, file, line, tmp_path, capsys):
        old = old_format(file, tmp_path / "old.safetensors")
        for number, image in enumerate(plates(9, seed=3)): save(image, tmp_path / "fresh" / f"{number}.png")
        assert main(["threshold", str(old), "--rate", "0.1", "--good", str(tmp_path / "fresh"), "--device", "cpu"]) == 0
        assert torch.equal(Detector.load(old, "cpu").predict(plates(2)).anomaly_map, Detector.load(file, "cpu").predict(plates(2)).anomaly_map)

    def test_parts_that_stand_alone_are_counted_and_named(self, detector, tmp_path, capsys):
        odd = detector.copy()
        odd.held_out_scores_ = detector.held_out_scores_.clone()
        odd.held_out_scores_[2] *= 100
        path = odd.save(tmp_path / "odd.safetensors")
        assert main(["threshold", str(path), "--rate", "0.05", "--device", "cpu"]) == 0
        said = capsys.readouterr().out
        assert f"note: {detector.held_out_names_[2]} stands alone among the normal parts" in said
        assert "note: 0.05 was asked for and 0.1 can be promised: parts that stand alone count as false alarms" in said
        assert "rests on 19 held-out images; of 1000 normal parts, 100 are expected" in said


def old_format(file, path):
    "The same detector as it was written before rarity and held-out scores were kept."
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys() if not name.startswith("score.rare_")}
        about = json.loads(opened.metadata()["recon_ad"])
    about = {name: about[name] for name in ("settings", "threshold", "false_alarm_rate")} | {"format": 1}
    save_file(tensors, path, {"recon_ad": json.dumps(about)})
    return path


class TestShow:
    def test_it_says_what_the_file_holds(self, detector, file, capsys):
        assert main(["show", str(file)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{file}: {file.stat().st_size / 1e6:.2f} MB, checksum ok"
        assert lines[1] == "images of 64 x 96 (height x width), brought to that size by stretch"
        told = [line.strip() for line in lines if line.startswith("  ")]
        assert {"size: (64, 96)", "steps: 20", "score: residual", "false_alarm_rate: 0.1"} < set(told)
        assert not [line for line in told if line.startswith(("resize:", "sigma:", "seed:"))]    # these are the defaults
        assert f"above {detector.threshold_:.6g} is defective; it was to promise 0.1" in lines
        assert promise_note(detector) in lines and "stands alone" not in "".join(lines)

    def test_a_damaged_file_is_one_line(self, file, capsys):
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
        assert main(["show", str(file)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "checksum differs" in error

    def test_an_old_file_has_no_checksum(self, file, tmp_path, capsys):
        assert main(["show", str(old_format(file, tmp_path / "old.safetensors"))]) == 0
        said = capsys.readouterr().out
        assert "no checksum" in said and "the scores that it rests on were not kept" in said


def test_files_are_judged_in_their_order_whatever_breaks_between(detector, line):
    names = ["good.png", "half.png", "deeper/a.bmp", "empty.png", "linked.png"]
    found = list(judge_files(detector, [line / name for name in names], group=2))
    assert [isinstance(picture, str) for picture, _ in found] == [False, True, False, True, False]
    assert torch.equal(found[0][1].anomaly_score, found[4][1].anomaly_score)
    assert found[2][1].anomaly_score > found[0][1].anomaly_score
    assert Verdict("a.png", "good").score is None

"Comparing two detectors and writing a page: the same figures as everywhere, nothing foreign, whole or not at all."
import csv
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from plates import plates, save
from recon_ad.appraisal import appraise, look_into
from recon_ad.cli import main
from recon_ad.compare import auroc_difference
from recon_ad.detector import Detector, evaluate_detector
from recon_ad.layouts import list_samples
from recon_ad.metrics import image_auroc
from recon_ad.verdicts import judge_folder

NASTY = "<img src=x onerror=alert(1)>&\"'"


def fitted(seed):
    options = {"width": 4, "depth": 2, "bottleneck": 4}
    return Detector(
        size=(64, 96), architecture="autoencoder", architecture_options=options, damage="none", score="residual", top_k=1, crop=None, steps=2, seed=seed,
        batch_size=4, precision="float32", held_out_share=0.4, false_alarm_rate=0.1, device="cpu",
    ).fit(plates(24), progress=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "Two detectors; the threshold of the second is never exceeded."
    folder = tmp_path_factory.mktemp("detectors")
    strict = fitted(1)
    strict.threshold_ = 1e6
    return fitted(0).save(folder / "a.safetensors"), strict.save(folder / "b.safetensors")


@pytest.fixture
def marked(tmp_path):
    "A folder with a test; a kind of defect has a name that wants to be a tag."
    folder = tmp_path / "plates"
    for number, image in enumerate(plates(10, 1)): save(image, folder / "train" / "good" / f"{number:02}.png")
    for number, image in enumerate(plates(6, 2)): save(image, folder / "test" / "good" / f"{number:02}.png")
    bar = np.zeros((64, 96), np.uint8)
    bar[5:9, 70:90] = 255
    for number, image in enumerate(plates(4, 3)):
        save(np.maximum(image, bar // (1 + number)), folder / "test" / NASTY.replace("/", "") / f"{number:02}.png")
        save(bar, folder / "ground_truth" / NASTY / f"{number:02}.png")
    return folder


@pytest.fixture
def unknown(tmp_path):
    for number, image in enumerate(plates(4, 5)): save(image, tmp_path / "new" / f"{number}.png")
    save(np.full((64, 96), 90, np.uint8), tmp_path / "new" / f"{NASTY}.png")
    return tmp_path / "new"


class TestCompare:
    def test_its_figures_are_those_of_each_detector_alone(self, files, marked, tmp_path, capsys):
        assert main(["compare", *map(str, files), str(marked), "--csv", str(tmp_path / "both.csv"), "--device", "cpu"]) == 0
        said = capsys.readouterr().out
        test = [sample for sample in list_samples(marked) if sample.split == "test"]
        detectors = [Detector.load(file, "cpu") for file in files]
        found = [evaluate_detector(detector, test, 0).figures for detector in detectors]
        for name in found[0]:
            (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ")]
            one, other = found[0][name], found[1][name]
            assert line.split()[1:] == [f"{one:.4f}", f"{other:.4f}", f"{other - one:+.4f}"]
        with open(tmp_path / "both.csv", newline="", encoding="utf-8") as table: rows = list(csv.DictReader(table))
        assert len(rows) == 10 and {row["b_verdict"] for row in rows} == {"good"}
        for letter, detector in zip("ab", detectors):
            assert [float(row[f"{letter}_score"]) for row in rows] == detector.anomaly_score([sample.path for sample in test]).tolist()
        differing = [row["file"] for row in rows if row["differ"] == "yes"]
        assert differing and f"different verdicts on {len(differing)} of 10 files" in said and all(name in said for name in differing)

    def test_the_interval_is_paired(self, files, marked):
        "Two detectors with the same scores never differ, whatever is drawn; drawn apart they would."
        detector = Detector.load(files[0], "cpu")
        one = appraise(detector, look_into(marked, detector, "test"))
        assert auroc_difference(one, one) == (0.0, 0.0, 0.0)
        other = appraise(other_detector := Detector.load(files[1], "cpu"), look_into(marked, other_detector, "test"))
        labels = [kind != "good" for kind in one.kinds]
        scores = [[said.score for said in side.verdicts] for side in (one, other)]
        assert auroc_difference(one, other)[0] == pytest.approx(image_auroc(labels, scores[1]) - image_auroc(labels, scores[0]), abs=1e-12)

    def test_verdicts_are_those_of_predict(self, files, marked, tmp_path):
        detector = Detector.load(files[0], "cpu")
        save(np.full((64, 96), 90, np.uint8), marked / "test" / "good" / "gray.png")
        judge_folder(detector, marked / "test", tmp_path / "out", progress=False)
        with open(tmp_path / "out" / "scores.csv", newline="", encoding="utf-8") as table: expected = {f"test/{row['file']}": row["verdict"] for row in csv.DictReader(table)}
        found = appraise(detector, look_into(marked, detector, "test"))
        assert {said.file: said.verdict for said in found.verdicts} == expected and expected["test/good/gray.png"] == "undecided"

    def test_without_labels_verdicts_alone_are_compared(self, files, unknown, capsys):
        assert main(["compare", *map(str, files), str(unknown), "--device", "cpu"]) == 3
        said = capsys.readouterr().out
        assert "nothing is measured" in said and "auroc" not in said.lower() and re.search(r"undecided +1 +1 +\+0", said)

    def test_what_is_wrong_is_one_line(self, files, marked, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        save(plates(1)[0], tmp_path / "old" / "train" / "good" / "a.png")
        for folder, message in (("nowhere", "there is no folder"), ("empty", "no images in"), ("old", "proves nothing")):
            assert main(["compare", *map(str, files), str(tmp_path / folder), "--device", "cpu"]) == 1
            error = capsys.readouterr().err
            assert message in error and error.startswith("recon_ad: ") and error.count("\n") == 1


class Page(HTMLParser):
    "Tags, pictures and texts of a page."
    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.said = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag in ("img", "source"): self.images.append(dict(attributes))

    def handle_data(self, data): self.said.append(data)


class TestReport:
    def write(self, file, folder, out, *words): return main(["report", str(file), str(folder), "--out", str(out), "--device", "cpu", *map(str, words)])

    def test_nothing_in_it_is_foreign_and_every_picture_says_what_it_shows(self, files, marked, tmp_path):
        assert self.write(files[0], marked, tmp_path / "page.html") == 0
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        page = Page(text)
        assert not {"script", "link", "iframe", "object"} & set(page.tags)
        assert "default-src 'none'" in text and "url(" not in text and not re.search(r"https?://", text)
        for image in page.images:
            assert (image.get("src") or image["srcset"]).startswith("data:image/") and "onerror" not in image
            assert "srcset" in image or image["alt"]
        assert NASTY in "".join(page.said) and "<img src=x" not in text
        curves = [image["alt"] for image in page.images if image.get("alt", "").startswith("training curve: loss ")]
        assert len(curves) == 1  # the detector's file says it

    def test_its_figures_are_those_of_the_evaluation(self, files, marked, tmp_path):
        self.write(files[1], marked, tmp_path / "page.html", "--most", 2)
        said = " ".join(Page((tmp_path / "page.html").read_text(encoding="utf-8")).said)
        test = [sample for sample in list_samples(marked) if sample.split == "test"]
        for name, value in evaluate_detector(Detector.load(files[1], "cpu"), test, 0).figures.items(): assert f"{name} {value:.4f}" in said
        assert "0 of 10 files called defective" in said and "4 defects missed" in said and "0 false alarms" in said
        assert "Missed defects: the worst 2 of 4" in said and "False alarms: none" in said
        assert said.count("called good, in truth") == 2

    def test_a_curve_where_a_history_is_given(self, files, marked, tmp_path, capsys):
        (tmp_path / "history.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
        assert self.write(files[0], marked, tmp_path / "page.html", "--history", tmp_path / "history.csv") == 0
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "loss 0.5 at step 1, 0.25 at step 2" in text
        (tmp_path / "history.csv").write_text("file,score\na,1\n")
        assert self.write(files[0], marked, tmp_path / "other.html", "--history", tmp_path / "history.csv") == 1
        assert "is no history" in capsys.readouterr().err and not (tmp_path / "other.html").exists()

    def test_a_folder_without_labels(self, files, unknown, tmp_path):
        assert self.write(files[0], unknown, tmp_path / "page.html") == 3
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        said = " ".join(Page(text).said)
        assert "The highest scores" in said and "no contrast" in said and "there are no metrics" in said and "AUROC" not in said
        assert NASTY in said and "<img src=x" not in text

    def test_all_maps_are_drawn_on_one_scale(self, files, marked, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr("recon_ad.plots.overlay", lambda image, found, vmax, threshold: drawn.append((vmax, threshold)) or np.zeros((*image.shape, 3), np.uint8))
        self.write(files[0], marked, tmp_path / "page.html", "--threshold", 0.001)
        assert len(drawn) == 6 and set(drawn) == {(0.002, 0.001)}          # every good one is a false alarm, no defect is missed

    def test_it_is_written_whole_or_not_at_all(self, files, marked, tmp_path, monkeypatch, capsys):
        (tmp_path / "page.html").write_text("the old page")
        monkeypatch.setattr("recon_ad.report.pictures_section", lambda *given: (_ for _ in ()).throw(RuntimeError("no memory")))
        assert self.write(files[0], marked, tmp_path / "page.html") == 1 and (tmp_path / "page.html").read_text() == "the old page"
        assert self.write(files[0], marked, tmp_path / "page.txt") == 1 and "must end in .html" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "plates"]

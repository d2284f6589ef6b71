"Watching a folder: nothing judged half, nothing twice, nothing lost; looks are counted and no clock is asked."
import csv
import os
import signal

import pytest

from plates import plates, save
from recon_ad import cli
from recon_ad.cli import main
from recon_ad.detector import Detector
from recon_ad.verdicts import Verdict
from recon_ad.watch import COLUMNS, GrowingTable, Watched, as_line, read_lines, watch_folder


@pytest.fixture(scope="module")
def detector():
    options = {"width": 4, "depth": 2, "bottleneck": 4}
    return Detector(
        size=(64, 96), architecture="autoencoder", architecture_options=options, damage="none", score="residual", top_k=1, crop=None, steps=2,
        batch_size=4, precision="float32", held_out_share=0.4, false_alarm_rate=0.1, device="cpu",
    ).fit(plates(12), progress=False)


@pytest.fixture
def line(tmp_path):
    (tmp_path / "line").mkdir()
    return tmp_path / "line"


def rows_of(out):
    "The table, a dictionary a line."
    with open(out / "watched.csv", newline="", encoding="utf-8") as table: return list(csv.DictReader(table))


def watch(detector, line, *deliveries, rounds=None, patience=3):
    "What is told while something happens between the looks, one delivery after the other; then two more looks."
    told, watched, waiting = [], Watched(), iter(deliveries)
    def wait():
        what = next(waiting, None)
        if what: what()
    rounds = len(deliveries) + 2 if rounds is None else rounds
    watch_folder(detector, line, line.parent / "out", told.append, watched, patience=patience, rounds=rounds, wait=wait)
    return told, watched


class TestArrivals:
    def test_a_file_that_grows_is_judged_when_it_is_whole_and_as_the_whole(self, detector, line, tmp_path):
        whole = save(plates(1, 5)[0], tmp_path / "whole.png").read_bytes()
        grow = [lambda end=end: (line / "a.png").write_bytes(whole[:end]) for end in (900, 1800, 2700)]
        told, watched = watch(detector, line, *grow, rounds=4)
        assert told == [] and watched.waiting == ["a.png"]
        told, watched = watch(detector, line, lambda: (line / "a.png").write_bytes(whole), rounds=4)
        assert [said.verdict for said in told] != ["undecided"] and told[0].score == detector.anomaly_score([tmp_path / "whole.png"]).item()
        assert [row["file"] for row in rows_of(tmp_path / "out")] == ["a.png"] and watched.waiting == []

    def test_a_writer_that_stalls_is_given_its_time(self, detector, line, tmp_path):
        whole = save(plates(1, 5)[0], tmp_path / "whole.png").read_bytes()
        half, rest = (lambda: (line / "a.png").write_bytes(whole[:900])), (lambda: (line / "a.png").write_bytes(whole))
        told, _ = watch(detector, line, half, None, None, rest, patience=5)       # the same in three looks, and half
        assert [said.error for said in told] == [""]

    def test_what_stays_broken_is_undecided_in_the_end_and_once(self, detector, line, tmp_path):
        (line / "broken.png").write_bytes(b"no picture")
        (line / "notes.txt").write_text("late shift")
        (line / "gone.png").symlink_to("nowhere.png")
        told, watched = watch(detector, line, rounds=2)
        assert told == [] and sorted(watched.waiting) == ["broken.png", "gone.png", "notes.txt"]
        told, _ = watch(detector, line, rounds=6)
        assert [said.verdict for said in told] == ["undecided"] * 3
        errors = {row["file"]: row["error"] for row in rows_of(tmp_path / "out")}
        assert errors["broken.png"].startswith("cannot be read") and errors["gone.png"] == "a link to nothing" and errors["notes.txt"].startswith("no picture")
        (line / "notes.txt").write_text("a log that grows is no new part")
        assert watch(detector, line, rounds=6)[0] == []

    def test_a_file_that_changes_while_it_is_read_waits(self, detector, line, monkeypatch):
        save(plates(1, 5)[0], line / "a.png")
        stream, later = Detector.stream, plates(1, 6)[0]
        def changed(self, images):
            yield from stream(self, images)
            monkeypatch.setattr(Detector, "stream", stream)
            save(later, line / "a.png")
            os.utime(line / "a.png", ns=(1, 1))
        monkeypatch.setattr(Detector, "stream", changed)
        told, _ = watch(detector, line, None, None)
        assert [said.score for said in told] == [detector.anomaly_score(later[None]).item()]

    def test_a_name_that_is_used_again_is_another_part(self, detector, line, tmp_path):
        save(plates(1, 5)[0], line / "1.png")
        os.utime(line / "1.png", ns=(10**9, 10**9))
        def again():
            save(plates(1, 6)[0], line / "1.png")
            os.utime(line / "1.png", ns=(2 * 10**9, 2 * 10**9))
        told, _ = watch(detector, line, None, again)
        assert [said.file for said in told] == ["1.png", "1.png"] and told[0].score != told[1].score
        assert [row["written"] for row in rows_of(tmp_path / "out")] == ["1970-01-01T00:00:01.000000000Z", "1970-01-01T00:00:02.000000000Z"]

    def test_a_folder_that_is_away_for_a_while_is_told_once(self, detector, line):
        def away(): line.rename(line.with_name("away"))
        def back():
            line.with_name("away").rename(line)
            save(plates(1, 5)[0], line / "a.png")
        told, _ = watch(detector, line, away, None, back)
        assert told[0].endswith("it is not there; waiting for it") and [said.file for said in told[1:]] == ["a.png"]

    def test_its_own_output_is_no_part(self, detector, line):
        save(plates(1, 5)[0], line / "a.png")
        told, watched = [], Watched()
        watch_folder(detector, line, line, told.append, watched, patience=2, rounds=6, wait=lambda: None)
        assert [said.file for said in told] == ["a.png"] and watched.waiting == []
        assert (line / "overlays" / "a.png.png").exists()


class TestTable:
    def test_a_restart_goes_on(self, detector, line, tmp_path):
        for number in range(3): save(plates(1, number)[0], line / f"={number}.png")
        assert len(watch(detector, line)[0]) == 3
        before = (tmp_path / "out" / "watched.csv").read_bytes()
        told, watched = watch(detector, line)
        assert told == [] and watched.before == 3 and (tmp_path / "out" / "watched.csv").read_bytes() == before
        save(plates(1, 9)[0], line / "new.png")
        assert [said.file for said in watch(detector, line)[0]] == ["new.png"]

    @pytest.mark.parametrize("keep", [0.3, 0.99, 1.0])
    @pytest.mark.parametrize("zeros", [0, 40])
    def test_a_crash_costs_the_line_in_progress_alone(self, detector, line, tmp_path, keep, zeros):
        for number in range(2): save(plates(1, number)[0], line / f"{number}.png")
        watch(detector, line)
        table = tmp_path / "out" / "watched.csv"
        whole = table.read_bytes()
        first, last = whole.rstrip(b"\n").rsplit(b"\n", 1)
        table.write_bytes(first + b"\n" + last[:int(keep * len(last))] + b"\0" * zeros)
        told, watched = watch(detector, line)
        assert [said.file for said in told] == ["1.png"] and watched.before == 1
        assert table.read_bytes() == whole

    def test_a_disk_that_is_full_leaves_no_half_line(self, tmp_path, monkeypatch):
        said = Verdict("a.png", "good", 1.0, 2.0, 3, 4, 5)
        with GrowingTable(tmp_path / "watched.csv") as table:
            before = (tmp_path / "watched.csv").read_bytes()
            def full(file): raise OSError(28, "No space left on device")
            monkeypatch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="cannot write .*No space left"): table.add(said, "now")
        assert (tmp_path / "watched.csv").read_bytes() == before

    def test_a_table_that_is_not_its_own_is_left_alone(self, tmp_path):
        header, line = as_line(COLUMNS), as_line(["x"] * len(COLUMNS))
        for data in (b"file,verdict\na.png,good\n", header + b"half\n" + line, b"\x89PNG"):
            (tmp_path / "watched.csv").write_bytes(data)
            for _ in range(2):      # and no lock stays behind
                with pytest.raises(ValueError, match="name another folder"): GrowingTable(tmp_path / "watched.csv").__enter__()
            assert (tmp_path / "watched.csv").read_bytes() == data
        assert read_lines(header + line, "t")[1] == len(header + line)


class TestCommand:
    @pytest.fixture
    def file(self, detector, tmp_path): return detector.save(tmp_path / "plates.safetensors")

    def watch(self, file, line, out, *words):
        return main(["watch", str(file), str(line), "--out", str(out), "--device", "cpu", *map(str, words)])

    def test_one_load_many_looks_and_a_summary(self, detector, file, line, tmp_path, capsys, monkeypatch):
        loads, slept, load = [], [], Detector.load
        monkeypatch.setattr(Detector, "load", lambda *given: loads.append(given) or load(*given))
        monkeypatch.setattr(cli.time, "sleep", slept.append)
        save(plates(1, 5)[0], line / "a.png")
        (line / "broken.png").write_bytes(b"")
        assert self.watch(file, line, tmp_path / "out", "--rounds", 6, "--patience", 3, "--every", 2.5, "--threshold=-1e9") == 3
        said = capsys.readouterr()
        assert len(loads) == 1 and slept == [2.5] * 5
        assert "defective  " in said.out and said.out.splitlines()[-1] == f"2 files judged: 0 good, 1 defective, 1 undecided; {tmp_path / 'out' / 'watched.csv'}"
        assert said.err.startswith("recon_ad: watch: broken.png undecided: cannot be read") and said.err.count("\n") == 1
        assert self.watch(file, line, tmp_path / "out", "--rounds", 2, "--quiet") == 0
        assert capsys.readouterr().out.startswith("0 files judged: 0 good, 0 defective, 0 undecided; 2 had been judged before; ")

    @pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
    def test_it_goes_on_until_it_is_interrupted_and_that_is_no_error(self, file, line, tmp_path, capsys, monkeypatch, how):
        save(plates(1, 5)[0], line / "a.png")
        looks, before = [], signal.getsignal(signal.SIGTERM)
        def sleep(seconds):
            looks.append(seconds)
            if len(looks) < 4: return
            if how == "Ctrl-C": raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(cli.time, "sleep", sleep)
        assert self.watch(file, line, tmp_path / "out", "--no-pictures") == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("1 files judged: ") and len(looks) == 4
        assert len(rows_of(tmp_path / "out")) == 1 and signal.getsignal(signal.SIGTERM) is before
        assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["watched.csv"]

    def test_what_is_wrong_is_one_line(self, file, line, tmp_path, capsys):
        with GrowingTable(tmp_path / "busy" / "watched.csv"):
            wrong = [(file, tmp_path / "nowhere", "out", "there is no folder"), (file, file, "out", "there is no folder"),
                     (tmp_path / "no.safetensors", line, "out", "no file"), (file, line, "busy", "another recon_ad watch writes")]
            for made, folder, out, message in wrong:
                assert self.watch(made, folder, tmp_path / out, "--rounds", 1, "--quiet") == 1
                error = capsys.readouterr().err
                assert message in error and error.startswith("recon_ad: ") and error.count("\n") == 1
        for words in (["--every", "0"], ["--rounds", "0"], ["--patience", "x"]):
            with pytest.raises(SystemExit) as stop: self.watch(file, line, tmp_path / "out", *words)
            assert stop.value.code == 2

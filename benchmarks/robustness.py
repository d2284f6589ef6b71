"""Whether promises hold: rates of false alarms, memory, time of drawing, and faults that must never be called good.

    RECON_AD_DATA=... python benchmarks/robustness.py            # everything that results/robustness.jsonl lacks
    python benchmarks/robustness.py --parts simulated,faults     # what needs no images
    python benchmarks/robustness.py --seconds 300 --again        # longer trainings, measured anew

A line is written as soon as it is measured, and what stands there is not measured again. Images are only read; no picture is kept.
"""
import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from scipy.special import betaincinv

from recon_ad.calibration import robust_threshold
from recon_ad.data import image_size
from recon_ad.detector import Detector
from recon_ad.files import whole_file
from recon_ad.layouts import list_samples
from recon_ad.settings import recipe
from recon_ad.tiles import Tiling, fit_large
from recon_ad.verdicts import Drawing, judge_folder

RESULTS = Path(__file__).parent.parent / "results" / "robustness.jsonl"
TINY = {
    "size": (64, 96), "architecture": "autoencoder", "architecture_options": {"width": 4, "depth": 2, "bottleneck": 4},
    "damage": "none", "score": "residual", "top_k": 1, "crop": None, "steps": 20, "batch_size": 4, "precision": "float32",
    "held_out_share": 0.4, "false_alarm_rate": 0.1, "learning_rate": 5e-3, "device": "cpu",
}


def plates(count: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> np.ndarray:
    "Noise with a bright square."
    images = np.random.default_rng(seed).normal(90, 4, (count, *size))
    images[:, size[0] // 4:size[0] // 2, size[1] // 4:size[1] // 2] += 100
    return images.clip(0, 255).astype(np.uint8)


def tiny_detector() -> Detector:
    "A detector of plates, trained in a second."
    return Detector(**TINY).fit(plates(24), progress=False)


# rates of false alarms

def simulated() -> Iterator[tuple[str, Callable]]:
    "Exchangeable scores: how often a new normal one exceeds a threshold that rests on n others, by its distribution."
    tails = {"log-normal": np.exp, "heavy tails": lambda values: np.exp(values * np.abs(values))}
    for kind, grow in tails.items():
        for count in (3, 5, 9, 19, 30, 50, 99, 100):
            yield f"{kind}, n={count}", lambda count=count, grow=grow: simulate(count, grow)


def simulate(count: int, grow: Callable, draws: int = 500, wanted: float = 0.05) -> dict:
    "Promised and observed on average over many lots of held-out images; the observed rate of each lot is exact."
    generator, promised, observed = np.random.default_rng(count), [], []
    for _ in range(draws):
        normal = np.sort(generator.normal(size=count))
        found = robust_threshold(torch.tensor(grow(normal)), wanted)
        rank = int(np.argmin(np.abs(grow(normal) - found.value)))
        promised.append(found.false_alarm_rate)
        observed.append(0.5 * math.erfc(normal[rank] / math.sqrt(2)))
    return {
        "wanted": wanted, "held_out": count, "draws": draws, "promised": float(np.mean(promised)),
        "observed": float(np.mean(observed)), "standard_error": float(np.std(observed) / math.sqrt(draws)),
    }


def sets(seconds: float, side: int) -> Iterator[tuple[str, Callable]]:
    "Every set below RECON_AD_DATA: held-out calibration against the normal test images."
    root = os.environ.get("RECON_AD_DATA")
    if not root: return print("sets: RECON_AD_DATA names no folder, left out")
    for folder in sorted(path.parent.parent for path in Path(root).rglob("train/good")):
        yield f"{folder.relative_to(root).as_posix()}, {seconds:g} s", lambda folder=folder: try_set(folder, seconds, side)


def rate_interval(alarms: int, count: int, level: float = 0.9) -> tuple[float, float]:
    "Clopper and Pearson's interval of a share."
    tail = (1 - level) / 2
    low = float(betaincinv(alarms, count - alarms + 1, tail)) if alarms else 0.0
    high = float(betaincinv(alarms + 1, count - alarms, 1 - tail)) if alarms < count else 1.0
    return low, high


def working_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    "The proportions of a picture with about side * side pixels, in whole 32s."
    scale = side / math.sqrt(size[0] * size[1])
    return tuple(max(32, round(length * scale / 32) * 32) for length in size)


def try_set(folder: Path, seconds: float, side: int) -> dict:
    "Train for so long, then count normal test images above the threshold, and pictures left undecided."
    samples = list_samples(folder)
    normal = [sample.path for sample in samples if sample.split == "train"]
    test = {label: [s.path for s in samples if s.split == "test" and s.label == label] for label in (0, 1)}
    size = working_size(image_size(normal[0]), side)
    detector = Detector(**recipe("fast"), size=size, false_alarm_rate=0.05, device="cpu")
    detector.fit(normal, seconds=seconds, progress=False, threads=1)
    alarms = sum(found.is_anomalous.item() for found in detector.stream(test[0]))
    low, high = rate_interval(alarms, len(test[0]))
    doubted = {label: sum(bool(detector.reasons_against(path)) for path in paths) for label, paths in test.items()}
    return {
        "size": list(size), "steps": detector.settings.steps, "held_out": len(detector.held_out_scores_), "wanted": 0.05,
        "promised": detector.false_alarm_rate_, "observed": alarms / len(test[0]), "low": low, "high": high,
        "normal_images": len(test[0]), "normal_undecided": doubted[0], "defective_images": len(test[1]), "defective_undecided": doubted[1],
    }


# memory

PEAK = "import re; print('PEAK', int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 1e6)"


def peak_of(program: str, *words: str) -> float:
    "The most memory that a program of its own took, in GB; Linux says."
    made = subprocess.run([sys.executable, "-c", f"{program}\n{PEAK}", *words], capture_output=True, text=True)
    if found := re.search(r"PEAK ([\d.]+)", made.stdout): return float(found[1])
    raise RuntimeError(made.stderr[-400:])


STREAM = """
import sys; from pathlib import Path; from recon_ad.detector import Detector
detector, files = Detector.load(sys.argv[1], 'cpu'), sorted(Path(sys.argv[2]).glob('*.png'))
paths = (files * (int(sys.argv[3]) // len(files) + 1))[:int(sys.argv[3])]
print(sum(found.is_anomalous.item() for found in detector.stream(paths)))
"""
COMMAND = "import sys; from recon_ad.cli import main; main(['predict', *sys.argv[1:], '--device', 'cpu', '--quiet'])"
LARGE = """
import sys; from recon_ad.detector import Detector; from recon_ad.tiles import predict_large
print(predict_large(Detector.load(sys.argv[1], 'cpu'), sys.argv[2]).anomaly_map.shape)
"""


def memory(pictures: int) -> Iterator[tuple[str, Callable]]:
    "Peak memory of a program that judges many pictures, very large ones, and large ones in tiles."
    yield f"{pictures} pictures in one stream", lambda: many(pictures)
    yield "predict at 100 megapixels", very_large
    yield "tiles at 8000 x 2000", tiled


def many(pictures: int) -> dict:
    "Peaks after 100 pictures and after all."
    with tempfile.TemporaryDirectory() as folder:
        file = str(tiny_detector().save(Path(folder) / "tiny.safetensors"))
        for number, image in enumerate(plates(20)): Image.fromarray(image).save(Path(folder) / f"{number}.png")
        return {"after_100_GB": peak_of(STREAM, file, folder, "100"), "after_all_GB": peak_of(STREAM, file, folder, str(pictures))}


def very_large() -> dict:
    "The command on two gray pictures of 100 megapixels, which are read in two threads."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file, given = tiny_detector().save(folder / "tiny.safetensors"), folder / "given"
        given.mkdir()
        for number in range(2):
            image = np.tile(plates(1, (1000, 1000), number)[0], (10, 10))
            Image.fromarray(image).save(given / f"{number}.png", compress_level=1)
        return {"peak_GB": peak_of(COMMAND, str(file), str(given), "--out", str(folder / "out")), "promised_GB": 1.5}


def tiled() -> dict:
    "One picture of 8000 x 2000 pixels in tiles of 512 x 512."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sheets = np.random.default_rng(0).normal(120, 20, (4, 600, 1100)).clip(0, 255).astype(np.uint8)
        settings = TINY | {"size": (512, 512), "steps": 1, "batch_size": 1, "top_k": 300}
        detector = fit_large(Detector(**settings), sheets, Tiling(128, 32), progress=False, threads=1)
        file = detector.save(folder / "tiles.safetensors")
        Image.fromarray(np.tile(sheets[0, :500, :1000], (16, 2))).save(folder / "large.png", compress_level=1)
        return {"peak_GB": peak_of(LARGE, str(file), str(folder / "large.png")), "pixels": 16_000_000}


# time

def drawing() -> Iterator[tuple[str, Callable]]:
    "What pictures of the maps cost beside the verdicts."
    yield "drawing beside judging, 1000 x 1000", draw_ratio


def draw_ratio(rounds: int = 3) -> dict:
    "Processor time of a folder with pictures drawn, in terms of the same without; medians of interleaved rounds."
    detector, times = tiny_detector(), {"none": [], "all": []}
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given"
        given.mkdir()
        for number, image in enumerate(plates(6, (1000, 1000))): Image.fromarray(image).save(given / f"{number}.png")
        for _ in range(rounds):
            for which, spent in times.items():
                begin = time.process_time()
                judge_folder(detector, given, Path(folder) / which, Drawing(which), progress=False)
                spent.append(time.process_time() - begin)
    middle = {which: float(np.median(spent)) for which, spent in times.items()}
    return {"judging_s": middle["none"] / 6, "with_drawing_s": middle["all"] / 6, "ratio": middle["all"] / middle["none"]}


# faults

def bomb(path: Path) -> None:
    "A PNG of a few bytes that says it holds ten billion pixels."
    image = Image.new("L", (8, 8))
    image.save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


def bad_files(folder: Path) -> dict[str, Callable]:
    "Files that no verdict of good may follow, each made by a call."
    good = plates(1, seed=7)[0]
    whole = folder.parent / "whole.png"
    Image.fromarray(good).save(whole)
    put = lambda image, **how: lambda path: Image.fromarray(image).save(path, **how)
    return {
        "truncated.png": lambda path: path.write_bytes(whole.read_bytes()[:900]),
        "empty.png": lambda path: path.write_bytes(b""),
        "text.png": lambda path: path.write_text("no picture"),
        "bomb.png": bomb,
        "dangling.png": lambda path: path.symlink_to(folder / "nowhere"),
        "folder_link.png": lambda path: path.symlink_to(folder, target_is_directory=True),
        "no_picture.txt": lambda path: path.write_text("notes"),
        "one_gray.png": put(np.full_like(good, 120)),
        "pages.tif": lambda path: tifffile.imwrite(path, np.stack([good, good]), photometric="minisblack"),
        "floating.tif": lambda path: tifffile.imwrite(path, good.astype(np.float32)),
        "one_pixel.png": put(good[:1, :1]),
        "other_proportions.png": put(good[:, :48]),
        "other_depth.png": put(good.astype(np.uint16) * 257),
        "twelve_bits.png": put(good.astype(np.uint16) * 16),
        "dark.png": put(good // 6),
        "flat.png": put((110 + (good.astype(int) - 110) // 8).astype(np.uint8)),
    }


def faults() -> Iterator[tuple[str, Callable]]:
    "Each fault with what came of it."
    for name in FILES:
        yield f"file: {name}", lambda name=name: judge_fault(name)
    for name, (call, wanted) in CALLS.items(): yield f"call: {name}", lambda call=call, wanted=wanted: refused(call, wanted)


FILES = (
    "truncated.png", "empty.png", "text.png", "bomb.png", "dangling.png", "folder_link.png", "no_picture.txt", "one_gray.png",
    "pages.tif", "floating.tif", "one_pixel.png", "other_proportions.png", "other_depth.png", "twelve_bits.png", "dark.png", "flat.png",
)
KNOWN = {}  # the detector of plates that files are judged by, fitted once


def known_detector() -> Detector:
    "A detector that has seen files, so that it knows their proportions and their depth."
    if not KNOWN:
        pictures = [Image.fromarray(image) for image in plates(24)]
        KNOWN["detector"] = Detector(**TINY).fit(plates(24), progress=False, files=pictures)
    return KNOWN["detector"]


def judge_fault(name: str) -> dict:
    "Judge a folder with the one file in it, and ask what speaks against a picture that has a score."
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given"
        given.mkdir()
        bad_files(given)[name](given / name)
        try: counts = judge_folder(known_detector(), given, Path(folder) / "out", Drawing("none"), progress=False)
        except Exception as error: return {"came": f"{type(error).__name__}: {error}"[:120], "survived": not isinstance(error, MemoryError)}
        reasons = [] if counts["undecided"] else known_detector().reasons_against(given / name)
        verdict = max(counts, key=counts.get)
        return {"verdict": verdict, "reasons_against": "; ".join(reasons)[:160], "survived": verdict != "good" or bool(reasons)}


def refused(call: Callable, wanted: str) -> dict:
    "Whether a call fails with a line that says what is wrong."
    try: came = str(call())
    except Exception as error: came = f"{type(error).__name__}: {error}"
    came = came.replace(tempfile.gettempdir(), "").splitlines()[0]
    return {"came": came[:160], "survived": wanted in came}


def spoilt_weights() -> str:
    "What is said of a good plate after a weight has become no number."
    detector = tiny_detector()
    with torch.no_grad(): next(detector.model_.parameters()).fill_(math.nan)
    return f"anomalous: {detector.predict(plates(1)).is_anomalous.item()}"


def spoilt_file(spoil: Callable) -> str:
    "What is said of a detector's file after it was spoilt."
    with tempfile.TemporaryDirectory() as folder:
        detector = tiny_detector()
        if spoil is None:
            with torch.no_grad(): next(detector.model_.parameters()).fill_(math.nan)
        path = detector.save(Path(folder) / "plates.safetensors")
        if spoil: path.write_bytes(spoil(bytearray(path.read_bytes())))
        return str(Detector.load(path, "cpu"))


def flipped(data: bytearray) -> bytearray:
    "One bit, near the end."
    data[-9] ^= 1
    return data


CALLS = {
    "weights are NaN": (spoilt_weights, "anomalous: True"),
    "file with weights that are NaN": (lambda: spoilt_file(None), "not finite"),
    "file with one bit changed": (lambda: spoilt_file(flipped), "checksum differs"),
    "file cut in half": (lambda: spoilt_file(lambda data: data[:len(data) // 2]), "only part of one"),
    "all training pictures identical": (lambda: Detector(**TINY).fit(plates(1).repeat(12, 0), progress=False), "identical"),
    "one training picture": (lambda: Detector(**TINY).fit(plates(1), progress=False), "at least 2"),
    "floats of 0 to 255": (lambda: tiny_detector().predict(plates(1).astype(np.float32)), "divide by 255"),
    "floats that are NaN": (lambda: tiny_detector().predict(np.full((64, 96), np.nan)), "not finite"),
    "array of another size": (lambda: tiny_detector().predict(plates(1, (65, 96))), "must be 64 x 96"),
    "color array": (lambda: tiny_detector().predict(np.zeros((2, 64, 96, 3), np.uint8)), "for color"),
    "folder without pictures": (lambda: tiny_detector().predict(Path(tempfile.mkdtemp())), "no images"),
    "detector that was not fitted": (lambda: Detector(**TINY).predict(plates(1)), "not fitted"),
    "large picture for one look": (lambda: one_look(), "in tiles"),
}


def one_look() -> str:
    "A detector that judges in tiles, asked for one look."
    detector = tiny_detector()
    detector.tiles_ = Tiling()
    return str(detector.predict(plates(1)))


# the table

def stored() -> dict[tuple[str, str], dict]:
    "What was measured before, by part and name."
    if not RESULTS.exists(): return {}
    lines = map(json.loads, RESULTS.read_text().splitlines())
    return {(line["part"], line["name"]): line for line in lines}


def store(line: dict) -> None:
    "Put a line among the others; one of the same part and name is replaced."
    lines = stored() | {(line["part"], line["name"]): line}
    with whole_file(RESULTS, "robustness") as part:
        part.write_text("".join(json.dumps(one) + "\n" for one in lines.values()))


def shown(values: dict) -> str:
    "The values of a line, for people."
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="simulated,faults,drawing,memory,sets", help="which, with commas")
    parser.add_argument("--seconds", type=float, default=60, help="training for each set")
    parser.add_argument("--side", type=int, default=128, help="pictures of the sets have about SIDE * SIDE pixels")
    parser.add_argument("--pictures", type=int, default=10_000, help="in the stream whose memory is measured")
    parser.add_argument("--again", action="store_true", help="measure anew what stands in the results")
    arguments = parser.parse_args()
    parts = {
        "simulated": simulated, "faults": faults, "drawing": drawing, "memory": lambda: memory(arguments.pictures),
        "sets": lambda: sets(arguments.seconds, arguments.side),
    }
    warnings.simplefilter("ignore")
    context, failed = {"threads": torch.get_num_threads(), "cores": os.cpu_count()}, 0
    for part in arguments.parts.split(","):
        for name, measure in parts[part]():
            line = stored().get((part, name))
            if line is None or arguments.again:
                begin = time.perf_counter()
                line = {"part": part, "name": name, "values": measure()}
                store(line | {"context": context | {"seconds": round(time.perf_counter() - begin, 1), "load": round(os.getloadavg()[0], 1)}})
            print(f"{part:10} {name:42} {shown(line['values'])}", flush=True)
            failed += line["values"].get("survived") is False
    print(f"\n{failed} faults not survived" if failed else "\nAll faults survived.")
    return bool(failed)


if __name__ == "__main__": raise SystemExit(main())

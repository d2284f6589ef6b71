"""Seconds from the command to its answer, from a cold start, and what of them is the import of PyTorch.

    python benchmarks/run.py --only startup

The seconds are those of the processor, user and system together: on a quiet machine they are also those on the wall.
"""
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from timing import row

MAIN = "import sys; from recon_ad.cli import main; sys.exit(main(sys.argv[1:]))"


def seconds_of(code: str, *words: str) -> float:
    "Processor seconds of a fresh Python with this program."
    before = os.times()
    subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def folder_of(pictures: int, folder: Path) -> Path:
    "Normal pictures of noise, as many as `check` is given."
    place = folder / "parts" / "train" / "good"
    place.mkdir(parents=True)
    for number in range(pictures):
        levels = np.random.default_rng(number).integers(60, 190, (176, 976), dtype=np.uint8)
        Image.fromarray(levels).save(place / f"{number:03}.png")
    return folder / "parts"


def saved_detector(folder: Path) -> Path:
    "A file of a detector with the default network."
    from recon_ad.detector import Detector
    images = np.random.default_rng(0).integers(60, 190, (8, 176, 976), dtype=np.uint8)
    damage = "parts + surfaces; probability=0.6, times=2"
    fitted = Detector(steps=1, batch_size=2, damage=damage, held_out_share=0.3, device="cpu")
    return fitted.fit(images, progress=False, threads=1).save(folder / "parts.safetensors")


def measure(quick: bool) -> list[dict]:
    "All figures of starting."
    rounds = 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts, detector = folder_of(20, folder), saved_detector(folder)
        picture = str(parts / "train" / "good" / "000.png")
        out = ["--out", str(folder / "verdicts"), "--quiet"]
        commands = {
            "python": ("pass",),
            "import torch": ("import torch",),
            "import onnxruntime": ("import onnxruntime",),
            "recon_ad --help": (MAIN, "--help"),
            "recon_ad check, 20 pictures": (MAIN, "check", str(parts)),
            "recon_ad predict, 1 picture": (MAIN, "predict", str(detector), picture, *out),
            "recon_ad predict, 1 picture, no drawing": (
                MAIN, "predict", str(detector), picture, *out, "--no-pictures",
            ),
        }
        seconds = {name: [] for name in commands}
        for _ in range(rounds):
            for name, words in commands.items(): seconds[name].append(seconds_of(*words))
    aims = {"recon_ad --help": 0.6, "recon_ad check, 20 pictures": 0.6, "recon_ad predict, 1 picture": 2.5}
    return [
        row(f"start: {name}", statistics.median(values), "seconds", rounds, "lower", aims.get(name))
        for name, values in seconds.items()
    ]

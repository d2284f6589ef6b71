"""How time and memory grow with the size of an image, the number of images and the lines of a results file.

    python benchmarks/run.py --only growth

A figure is the slope of a line through the points on logarithmic axes: 1 is linear. Small inputs cost something at
once, so slopes are taken from sizes at which that no longer counts.
"""
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from timing import interleaved, row, slope

from recon_ad.architectures import build_model
from recon_ad.detector import observe
from recon_ad.experiment import Experiment
from recon_ad.results import load_lines, store_result
from recon_ad.streaming import StreamingEvaluation

PEAK = """
import sys, torch
from recon_ad.architectures import build_model
from recon_ad.detector import observe
torch.set_num_threads(1)
model, side = build_model("marking").eval(), int(sys.argv[1])
with torch.inference_mode(): observe(model, torch.rand(1, 1, side, side))
# of this program alone: getrusage would begin with what the process that started it held
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def points(seconds: dict[str, list[float]]) -> list[float]:
    "The median of each contestant."
    return [statistics.median(values) for values in seconds.values()]


def of_image_size(sides: list[int], rounds: int) -> list[dict]:
    "Network and both views of its encoder on one image."
    model = build_model("marking").eval().to(memory_format=torch.channels_last)

    def look(side):
        image = torch.rand(1, 1, side, side)
        def work():
            with torch.inference_mode(): observe(model, image)
        return work
    costs = points(interleaved({str(side): look(side) for side in sides}, rounds))
    pixels = [side * side for side in sides]
    told = {"sizes": pixels, "costs": [round(cost, 4) for cost in costs]}
    return [row("growth of inference with pixels, time", slope(pixels, costs), "slope", rounds, "lower", 1.1, **told)]


def of_memory(sides: list[int]) -> list[dict]:
    "Peak of a process that looks at one image, above that of one that looks at a very small one."
    def peak(side):
        said = subprocess.run([sys.executable, "-c", PEAK, str(side)], check=True, capture_output=True, text=True)
        return int(said.stdout) / 1024
    floor = peak(32)
    costs = [peak(side) - floor for side in sides]
    pixels = [side * side for side in sides]
    told = {"sizes": pixels, "costs": [round(cost, 1) for cost in costs]}
    return [row("growth of inference with pixels, memory", slope(pixels, costs), "slope", 1, "lower", 1.1, **told)]


def of_images(counts: list[int], rounds: int) -> list[dict]:
    "Metrics from memory-mapped maps, one image at a time."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.npy"
        maps = np.lib.format.open_memmap(path, "w+", np.float32, (max(counts), 128, 128))
        rng = np.random.default_rng(0)
        for number in range(len(maps)): maps[number] = rng.random((128, 128), np.float32)
        mask = np.zeros((128, 128), bool)
        mask[40:50, 40:60] = True

        def evaluate(count):
            def work():
                seen, given = StreamingEvaluation(), np.load(path, mmap_mode="r")
                for number in range(count):
                    defect = number % 2
                    seen.update(np.asarray(given[number]), mask if defect else np.zeros_like(mask), defect)
                seen.compute(bootstrap=0)
            return work
        costs = points(interleaved({str(count): evaluate(count) for count in counts}, rounds))
    told = {"sizes": counts, "costs": [round(cost, 4) for cost in costs]}
    return [row("growth of streamed metrics with images, time", slope(counts, costs), "slope", rounds, "lower", 1.1, **told)]


def of_lines(counts: list[int], rounds: int) -> list[dict]:
    "Reading a file of results, and adding one line to it."
    base = Experiment().as_dict()
    metrics = {f"score {number}": {"aupro": 0.5, "image_auroc": 0.5} for number in range(4)}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for count in counts:
            paths[count] = Path(folder) / f"{count}.jsonl"
            write_lines(paths[count], [{"experiment": base | {"seed": seed}, "metrics": metrics} for seed in range(count)])
        read = interleaved({str(count): lambda path=path: load_lines(path) for count, path in paths.items()}, rounds)
        added = {"experiment": base | {"seed": 10**6}, "metrics": metrics}
        stored = interleaved({str(count): lambda path=path: store_result(path, added) for count, path in paths.items()}, rounds)
    rows = []
    for what, seconds in (("reading", read), ("storing one result in", stored)):
        costs = points(seconds)
        told = {"sizes": counts, "costs": [round(cost, 4) for cost in costs]}
        rows.append(row(f"growth of {what} a results file with its lines, time", slope(counts, costs), "slope", rounds, "lower", 1.1, **told))
    return rows


def write_lines(path: Path, lines: list[dict]) -> None:
    "A results file at once; `store_result` would rewrite it for each line."
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def measure(quick: bool) -> Iterator[dict]:
    "All figures of growth."
    rounds = 5
    sides = [256, 512, 1024] if quick else [256, 512, 1024, 2048]
    lines = [100, 300, 1000] if quick else [100, 1000, 10_000]
    images = [50, 100, 200] if quick else [100, 400, 1600]
    yield from of_lines(lines, rounds)
    yield from of_images(images, rounds)
    yield from of_image_size(sides, rounds)
    if sys.platform == "linux": yield from of_memory(sides[1:])

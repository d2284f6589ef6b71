"""What every benchmark here shares: rounds in which all contestants take their turn, and a line a figure.

The machine is never quiet, so no figure stands alone: what is compared runs alternately in one process, and a ratio is
the median over rounds of the ratio within a round. With one thread the clock is the processor's, which counts the work
itself, whoever else is running; with several it is that of the wall, since waiting threads spin.
"""
import os
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from recon_ad.device import pick_precision


def clock() -> float:
    "Seconds of this process with one thread, else those on the wall."
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(contestants: Mapping[str, Callable], rounds: int) -> dict[str, list[float]]:
    "Seconds of each contestant in each round; the first round warms up and is not kept."
    seconds = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, work in contestants.items():
            begin = clock()
            work()
            seconds[name].append(clock() - begin)
    return {name: times[1:] for name, times in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> float:
    "Median over the rounds of one contestant's time over another's."
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below]))


def slope(sizes: list[float], costs: list[float]) -> float:
    "Exponent of growth: the slope of a line through the points on logarithmic axes; 1 is linear."
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def row(
    name: str,
    value: float,
    unit: str = "ratio",          # ratio, slope, seconds, share or points
    n: int = 1,                   # rounds
    better: str = "higher",       # or lower
    aim: float | None = None,     # that the value should reach
    **about,                      # whatever else explains the value
) -> dict:
    "One figure, as a line of results holds it."
    if not np.isfinite(value): raise ValueError(f"{name}: not a finite figure, {value}")
    return {"name": name, "value": round(float(value), 4), "unit": unit, "n": n, "better": better, "aim": aim, **about}


def machine() -> dict:
    "What the figures were made on."
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": pick_precision(torch.device("cpu")) == torch.bfloat16,
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }

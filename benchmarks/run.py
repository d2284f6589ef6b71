"""Every benchmark by one command: a line a figure in results/benchmarks.jsonl, a table, and what became slower.

    python benchmarks/run.py                  # everything; an hour on a quiet machine
    python benchmarks/run.py --quick          # smaller inputs, a few minutes
    python benchmarks/run.py --only growth    # one benchmark; may be repeated
    python benchmarks/run.py --threads 1      # by the processor's clock: on a busy machine

A figure is held against the latest stored one of its name, of the same thoroughness, threads and number of cores. What
fell by more than 20 % is named, and the exit code is then 1. Seconds are stored but not compared: they belong to their
machine.
"""
import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import torch
from timing import machine, row

STORED = Path(__file__).parents[1] / "results" / "benchmarks.jsonl"
FALL = 0.2
COMPARED = ("ratio", "share", "slope")


def of_losses(quick: bool) -> list[dict]:
    "What losses cost, beside the network's step and other packages."
    import losses
    from timing import clock
    shape, rounds = losses.SHAPES[1], 5
    shape = (2, *shape[1:]) if quick else shape
    times = losses.measure(shape, rounds, clock)
    rows = [row(f"loss: {name} over ours", losses.ratio(times, name, ours), n=rounds)
            for name, (_, ours) in losses.PEERS.items()]
    share = losses.ratio(times, "mission", "network")
    return [*rows, row("loss: mse + ssim + focal_frequency + sobel, of the network's step", share, "ratio", rounds, "lower", 0.5)]


def of_metrics(quick: bool) -> list[dict]:
    "Exact metrics beside scikit-learn, by processor time."
    import metrics
    images, size, good = (20, 256, 6) if quick else (160, 512, 30)
    rounds = 5
    found = metrics.measure(images, size, good, rounds)
    names = {
        "five figures, times faster than scikit-learn (two figures)": "metrics: scikit-learn's two figures over our five",
        "five figures, times faster than scikit-learn (two figures) and plain PRO":
            "metrics: scikit-learn's two figures and plain PRO over our five",
    }
    rows = [row(ours, found[theirs]["processor seconds"], n=rounds) for theirs, ours in names.items()]
    memory = found["peak extra memory, times the maps"]["streaming"]
    return [*rows, row("metrics: memory of streaming over the maps", memory, "ratio", rounds, "lower")]


def of_synthesis(quick: bool) -> list[dict]:
    "Damage beside the network that learns from it, and beside the usual way of making it."
    import statistics

    import synthesis
    rounds = 5
    shape = (2 if quick else 8, 1, 176, 976)
    seconds = synthesis.measure(shape, rounds, 0.0 if quick else 0.5)
    damages = [name for name in seconds if name.startswith("damage")]
    rows = []
    for other, aim in synthesis.LIMITS.items():
        for name in damages:
            faster = statistics.median(b / a for a, b in zip(seconds[name], seconds[other]))
            rows.append(row(f"synthesis: {other} over {name}", faster, "ratio", rounds, "higher", aim))
    return rows


def of_inference(quick: bool) -> list[dict]:
    "Images a second beside a network of DRAEM's size."
    import inference
    return inference.beside_draem((128, 128) if quick else (256, 256), 5)


def of_module(name: str):
    "The figures of a module of this folder that has a `measure`."
    return lambda quick: importlib.import_module(name).measure(quick)


BENCHMARKS = {
    "startup": of_module("startup"),
    "training": of_module("training"),
    "inference": of_inference,
    "graph": of_module("graph"),
    "int8": of_module("int8"),
    "growth": of_module("growth"),
    "tiny_runs": of_module("tiny_runs"),
    "losses": of_losses,
    "metrics": of_metrics,
    "synthesis": of_synthesis,
}


def stored_figures(path: Path) -> list[dict]:
    "The lines of a file; none where there is no file."
    if not path.exists(): return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def comparable(one: dict, other: dict) -> bool:
    "Whether two figures measure the same on machines of one kind."
    same = all(one.get(name) == other.get(name) for name in ("name", "unit", "quick"))
    return same and all(one["machine"][name] == other["machine"][name] for name in ("cores", "threads", "bfloat16"))


def change(new: dict, old: dict) -> float:
    "How much better a figure is than the one before, as a share; below 0 it is worse."
    if min(new["value"], old["value"]) <= 0: return 0.0
    gain = new["value"] / old["value"]
    return (gain if new["better"] == "higher" else 1 / gain) - 1


def fallen(new: Iterable[dict], before: list[dict]) -> list[str]:
    "The figures that are worse than the latest of their kind by more than is noise."
    said = []
    for figure in new:
        if figure["unit"] not in COMPARED: continue
        older = [one for one in before if comparable(figure, one)]
        if not older or change(figure, older[-1]) >= -FALL: continue
        said.append(f"{figure['name']}: {figure['value']:g}, was {older[-1]['value']:g}")
    return said


def is_missed(figure: dict) -> bool:
    "Whether a figure does not reach its aim."
    if figure["aim"] is None: return False
    return figure["value"] < figure["aim"] if figure["better"] == "higher" else figure["value"] > figure["aim"]


def table(figures: list[dict]) -> str:
    "The figures on paper."
    lines = []
    for one in figures:
        aim = "" if one["aim"] is None else f"   aim {one['aim']:g}{', missed' if is_missed(one) else ''}"
        lines.append(f"{one['value']:10.3f} {one['unit']:8}{one['name']}{aim}")
    return "\n".join(lines)


def carry_out(name: str, quick: bool, path: Path) -> list[dict]:
    "One benchmark; each figure is stored as soon as it is made, with what it was made on."
    made = []
    for figure in BENCHMARKS[name](quick):
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        made.append(figure | {"benchmark": name, "quick": quick, "machine": machine(), "measured": now})
        with path.open("a", encoding="utf-8") as file: file.write(json.dumps(made[-1]) + "\n")
    return made


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller inputs")
    parser.add_argument("--only", action="append", choices=tuple(BENCHMARKS), help="may be repeated")
    parser.add_argument("--threads", type=int, help="of PyTorch; 1 counts processor time instead of the wall clock's")
    parser.add_argument("--file", type=Path, default=STORED, help="of results, added to")
    arguments = parser.parse_args(words)
    if arguments.threads: torch.set_num_threads(arguments.threads)
    before, made = stored_figures(arguments.file), []
    for name in arguments.only or BENCHMARKS:
        begin = time.perf_counter()
        figures = carry_out(name, arguments.quick, arguments.file)
        made += figures
        print(f"\n{name}, {time.perf_counter() - begin:.0f} s\n{table(figures)}", flush=True)
    worse = fallen(made, before)
    if worse: print("\nworse by more than 20 %:\n" + "\n".join(worse))
    return int(bool(worse))


if __name__ == "__main__": sys.exit(main())

"""Where the time of a training step goes, and how near its convolutions come to what this machine can do.

    python benchmarks/run.py --only training
"""
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from inference import DraemSized
from timing import clock, interleaved, ratio, row
from torch import nn

from recon_ad.detector import Detector, read_off
from recon_ad.device import mixed_precision
from recon_ad.losses import parse_loss
from recon_ad.marking import MARKING_LOSSES, soft_label
from recon_ad.settings import DetectorSettings
from recon_ad.training import ThreadChoice, take_step

PARTS = ("data and damage", "forward", "loss", "backward", "optimiser")
SPIN = "while True: pass"


class Step:
    "The default training step on images of one size, part by part."
    def __init__(self, size: tuple[int, int], precision: torch.dtype, batch_size: int = 8):
        images = np.random.default_rng(0).integers(60, 190, (16, *size), dtype=np.uint8)
        given = DetectorSettings(size=size, batch_size=batch_size, damage="parts + surfaces; probability=0.6, times=2")
        self.settings = read_off(given, images)
        detector = Detector(self.settings, "cpu")
        detector.foreground_ = _everywhere(images)
        self.data = detector.training_data(images, self.settings)
        self.loss, self.precision, self.number = parse_loss(self.settings.loss), precision, 0
        self.model = detector.model_.train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), 1e-4)

    def batch(self) -> tuple:
        self.number += 1
        return self.data.batch(self.number, self.settings, torch.device("cpu"))

    def whole(self) -> None:
        take_step(self.model, self.optimiser, self.batch(), self.loss, self.settings, 1e-4, self.precision)

    def parts(self) -> dict[str, float]:
        "Seconds of each part of one step."
        times = [clock()]
        mark = lambda: times.append(clock())
        given, wanted, mask, weight, _ = self.batch()
        mark()
        with mixed_precision(given.device, self.precision): answer = self.model(given)
        mark()
        total = self.loss(answer.image.float(), wanted, weight)[0]
        label = soft_label(given, wanted, mask)
        total = total + 4 * MARKING_LOSSES[self.settings.marking](answer.logits.float(), label, mask, weight)
        mark()
        self.optimiser.zero_grad()
        total.backward()
        mark()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        mark()
        return dict(zip(PARTS, np.diff(times)))


def _everywhere(images: np.ndarray):
    from recon_ad.foreground import fit_foreground
    return fit_foreground(images, "texture")


def convolutions(step: Step) -> list[tuple[nn.Conv2d, tuple]]:
    "The network's convolutions with the shapes of their inputs in a step."
    found, hooks = [], []
    for layer in step.model.modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_pre_hook(lambda layer, given: found.append((layer, tuple(given[0].shape)))))
    with torch.no_grad(): step.model(step.batch()[0])
    for hook in hooks: hook.remove()
    return found


def convolutions_alone(layers: list, dtype: torch.dtype):
    "Forward and backward of the convolutions, each on an input that lies ready in the type and layout they like best."
    ready = []
    for layer, shape in layers:
        own = nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
            bias=layer.bias is not None,
        ).to(dtype=dtype, memory_format=torch.channels_last)
        given = torch.rand(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(): slope = torch.ones_like(own(given))
        ready.append((own, given.requires_grad_(shape[1] > 16), slope))

    def work():
        for own, given, slope in ready:
            own.zero_grad()
            given.grad = None
            own(given).backward(slope)
    return work


def split(size: tuple[int, int], dtype: torch.dtype, rounds: int) -> list[dict]:
    "Shares of a step, and the share of the convolution limit that the step reaches."
    step, where = Step(size, dtype), f"{size[0]}x{size[1]}, {str(dtype)[6:]}"
    parts = {name: [] for name in PARTS}

    def taken():
        for name, seconds in step.parts().items(): parts[name].append(seconds)
    seconds = interleaved({"step": taken, "convolutions": convolutions_alone(convolutions(step), dtype)}, rounds)
    whole = [sum(values) for values in list(zip(*parts.values()))[1:]]
    rows = [
        row(f"training step, {where}: {name}", statistics.median(a / b for a, b in zip(values[1:], whole)),
            "share", rounds, "lower")
        for name, values in parts.items()
    ]
    reached = ratio(seconds, "convolutions", "step")
    milliseconds = round(1000 * statistics.median(seconds["step"]))
    return [*rows, row(f"training step, {where}: of the convolution limit", reached, "share", rounds, step_ms=milliseconds)]


def beside_draem(rounds: int, dtype: torch.dtype, size: tuple[int, int] = (256, 256)) -> list[dict]:
    "How many of our steps an image go into one of a network of DRAEM's size."
    ours, theirs = Step(size, dtype), DraemSized().train().to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, *size).contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(theirs.parameters(), 1e-4)

    def draem():
        with mixed_precision(image.device, dtype): logits = theirs(image)
        optimiser.zero_grad()
        logits.float().square().mean().backward()
        optimiser.step()
    seconds = interleaved({"ours": ours.whole, "draem": draem}, rounds)
    faster = 8 * ratio(seconds, "draem", "ours")  # ours takes 8 images, theirs 1
    return [row(f"training, images a second over a DRAEM-sized network, {size[0]}x{size[1]}", faster, "ratio", rounds)]


def busy(rounds: int, window: float = 2.0) -> list[dict]:
    "Steps beside a process that never waits, over steps without it, in alternating windows."
    step, most = Step((176, 976), torch.bfloat16, 4), torch.get_num_threads()
    ratios = {"auto": [], "1": [], "2": []}
    choices = {name: ThreadChoice(name if name == "auto" else int(name)) for name in ratios}

    def steps(name: str) -> float:
        choice, times, begin = choices[name], [], time.perf_counter()
        if name != "auto": torch.set_num_threads(int(name))
        while time.perf_counter() - begin < window or len(times) < 2:
            start = time.perf_counter()
            step.whole()
            times.append(time.perf_counter() - start)
            choice.tell(times[-1])
        return len(times) / sum(times)
    for name in ratios:
        choices[name].__enter__()
        for _ in range(3 if name == "auto" else 1): steps(name)
        for _ in range(rounds):
            alone = steps(name)
            spinner = subprocess.Popen([sys.executable, "-S", "-c", SPIN])
            try: ratios[name].append(steps(name) / alone)
            finally:
                spinner.kill()
                spinner.wait()
        choices[name].__exit__()
        torch.set_num_threads(most)
    return [
        row(f"steps a second beside a busy process over without, threads={name}", statistics.median(values), "ratio", rounds)
        for name, values in ratios.items()
    ]


def measure(quick: bool) -> Iterator[dict]:
    "All figures of training."
    rounds = 5
    sizes = [(176, 976)] if quick else [(176, 976), (256, 256)]
    for size in sizes:
        for dtype in (torch.bfloat16, torch.float32): yield from split(size, dtype, rounds)
    yield from beside_draem(rounds, torch.bfloat16, (128, 128) if quick else (256, 256))
    yield from busy(rounds, 1.0 if quick else 2.0)

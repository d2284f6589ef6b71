"""Images a second at inference: our default detector beside a network of DRAEM's size, interleaved in one run.

    python benchmarks/inference.py                # 176 x 976 and 256 x 256, medians of 5 rounds

DRAEM's two networks are built from their published sizes (Zavrtanik et al. 2021): a reconstructive autoencoder of five levels with 128 to 1024
channels and a discriminative U-Net of six levels with 64 to 512 channels, on three-channel images. Only sizes are taken, no code and no weights.
"""
import argparse
import time

import numpy as np
import torch
from torch import nn

from recon_ad.architectures import build_model, count_macs, count_parameters
from recon_ad.detector import Detector
from recon_ad.device import mixed_precision, pick_precision


def convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    "A 3 x 3 convolution with batch normalisation and ReLU."
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class Levels(nn.Module):
    "Two convolutions a level, halving on the way down and doubling on the way up: with skips, or without."
    def __init__(self, down: list[int], up: list[int], channels_in: int, channels_out: int, skips: bool):
        super().__init__()
        self.down = nn.ModuleList(nn.Sequential(convolution(a, b), convolution(b, b)) for a, b in zip([channels_in, *down], down))
        self.enlarge, self.up = nn.ModuleList(), nn.ModuleList()
        for deep, shallow, skip in zip([down[-1], *up], up, down[-2::-1]):
            width, inside, given = (shallow, shallow, shallow + skip) if skips else (deep, deep, deep)
            self.enlarge.append(nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), convolution(deep, width)))
            self.up.append(nn.Sequential(convolution(given, inside), convolution(inside, shallow)))
        self.last, self.skips = nn.Conv2d(up[-1], channels_out, 3, padding=1), skips

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seen = [self.down[0](image)]
        for level in self.down[1:]: seen.append(level(nn.functional.max_pool2d(seen[-1], 2)))
        value = seen[-1]
        for enlarge, up, skip in zip(self.enlarge, self.up, seen[-2::-1]):
            value = enlarge(value)
            value = up(torch.cat((value, skip), 1) if self.skips else value)
        return self.last(value)


class DraemSized(nn.Module):
    "Reconstruction, then segmentation of input and reconstruction."
    def __init__(self):
        super().__init__()
        self.reconstruct = Levels([128, 256, 512, 1024, 1024], [512, 256, 128, 128], 3, 3, skips=False)
        self.segment = Levels([64, 128, 256, 512, 512, 512], [512, 256, 128, 64, 64], 6, 2, skips=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.segment(torch.cat((self.reconstruct(image), image), 1))


def median_seconds(runs: dict, rounds: int) -> dict[str, float]:
    "Median of each, all in turn in every round, after one that is not counted."
    times = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def fitted(size: tuple[int, int], precision: str, score: str) -> Detector:
    "A detector that has hardly learnt anything: its speed does not depend on what it knows."
    normal = np.random.default_rng(0).integers(0, 255, (8, *size), dtype=np.uint8)
    return Detector(size=size, score=score, precision=precision, damage="parts + surfaces; probability=0.6, times=2", steps=1, batch_size=2, held_out_share=0.5, device="cpu").fit(normal, progress=False)


def beside_draem(size: tuple[int, int], rounds: int) -> list[dict]:
    "Our default detector, whole, and the network alone of DRAEM's size, in turn."
    from timing import interleaved, ratio, row
    fast = pick_precision(torch.device("cpu"))
    rgb = torch.rand(1, 3, *size).contiguous(memory_format=torch.channels_last)
    draem = DraemSized().eval().to(memory_format=torch.channels_last)
    image = np.random.default_rng(1).integers(0, 255, (1, *size), dtype=np.uint8)
    rows, default = [], Detector().settings.score
    for dtype in dict.fromkeys((torch.float32, fast)):
        detector = fitted(size, str(dtype)[6:], default)

        def theirs():
            with torch.inference_mode(), mixed_precision(torch.device("cpu"), dtype): draem(rgb)
        seconds = interleaved({"ours": lambda: detector.predict(image), "draem": theirs}, rounds)
        name = f"inference, images a second over a DRAEM-sized network, {size[0]}x{size[1]}, {str(dtype)[6:]}"
        rows.append(row(name, ratio(seconds, "draem", "ours"), "ratio", rounds, "higher", 50))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    fast = pick_precision(torch.device("cpu"))
    draem = DraemSized().eval().to(memory_format=torch.channels_last)
    print(f"DRAEM-sized: {count_parameters(draem) / 1e6:.1f} M parameters, {count_macs(draem, (256, 256), channels=3) / 1e9:.0f} GMAC at 256 x 256; "
          f"ours: {count_parameters(build_model('marking')) / 1e6:.1f} M, {count_macs(build_model('marking'), (256, 256)) / 1e9:.2f} GMAC; {torch.get_num_threads()} threads, fast precision {str(fast)[6:]}")
    missed = []
    for size in ((176, 976), (256, 256)):
        images = np.random.default_rng(1).integers(0, 255, (8, *size), dtype=np.uint8)
        padded = tuple(-(-side // 32) * 32 for side in size)
        rgb = torch.rand(1, 3, *padded).to(memory_format=torch.channels_last)
        ours = {f"ours, {score}, {precision}": (lambda d=fitted(size, precision, score): d.predict(images)) for score in ("residual", "residual + latent") for precision in ("float32", str(fast)[6:])}
        def theirs(dtype):
            with torch.inference_mode(), mixed_precision(torch.device("cpu"), dtype): draem(rgb)
        peers = {f"DRAEM-sized network, {str(dtype)[6:]}": (lambda dtype=dtype: theirs(dtype)) for dtype in dict.fromkeys((torch.float32, fast))}
        seconds = median_seconds(ours | peers, arguments.rounds)
        rate = {name: (len(images) if name in ours else 1) / value for name, value in seconds.items()}
        print(f"\n{size[0]} x {size[1]}")
        for name, value in rate.items(): print(f"  {name:44s} {value:8.2f} images a second")
        for precision, wanted in (("float32", 15), (str(fast)[6:], 40)):
            mine, peer = rate[f"ours, residual + latent, {precision}"], rate[f"DRAEM-sized network, {precision}"]
            print(f"  {precision}: {mine / peer:.0f} times as many as the DRAEM-sized network")
            if size == (176, 976) and mine < wanted: missed.append(f"{precision}: {mine:.1f} images a second at 176 x 976, at least {wanted} were wanted")
            if mine / peer < 50: missed.append(f"{precision} at {size[0]} x {size[1]}: {mine / peer:.0f} times the DRAEM-sized network, at least 50 were wanted")
    print("\n" + ("\n".join(missed) or "All limits hold."))
    return bool(missed)


if __name__ == "__main__": raise SystemExit(main())

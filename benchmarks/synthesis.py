"""How fast damage is made: against the network that learns from it, and against the usual pipeline of one image at a time.

    python benchmarks/synthesis.py            # 2 threads, both sizes, about a minute on a quiet machine
    python benchmarks/synthesis.py --batch 64 # larger batches: more images share a kind of damage, and its operations
    python benchmarks/synthesis.py --json

All contestants of a size run in one process, one after the other in each round, so that a noisy machine is noisy for all; a ratio is the median over rounds of the
ratio within a round. Images a second count all images of the batch, of which half are damaged. Ours works with `--threads`, the usual pipeline in the one process it is.
"""
import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from skimage import data

from recon_ad.architectures import build_model
from recon_ad.synthesis import PRESETS, parse_damage
from recon_ad.device import mixed_precision, pick_precision

SIZES = ((256, 256), (176, 976))
LIMITS = {'training step': 5.0, 'numpy Perlin and paste': 20.0}  # how many times as fast damage has to be


def perlin(shape: tuple[int, int], cells: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    "Perlin noise at full resolution, as in DRAEM's and anomalib's generators; their sizes must be divisible, ours is made larger and cropped."
    full = [-(-side // count) * count for side, count in zip(shape, cells)]
    repeat, step = [side // count for side, count in zip(full, cells)], [count / side for side, count in zip(full, cells)]
    grid = np.mgrid[0:full[0], 0:full[1]].transpose(1, 2, 0) * step % 1
    angles = 2 * np.pi * random.random((cells[0] + 1, cells[1] + 1))
    gradients = np.stack([np.cos(angles), np.sin(angles)], axis=-1).repeat(repeat[0], 0).repeat(repeat[1], 1)
    corner = lambda down, right: gradients[down * repeat[0]:, right * repeat[1]:][:full[0], :full[1]]
    dot = lambda down, right: ((grid - [down, right]) * corner(down, right)).sum(-1)
    fade = 6 * grid ** 5 - 15 * grid ** 4 + 10 * grid ** 3
    top = dot(0, 0) + fade[..., 1] * (dot(0, 1) - dot(0, 0))
    bottom = dot(1, 0) + fade[..., 1] * (dot(1, 1) - dot(1, 0))
    return (np.sqrt(2) * (top + fade[..., 0] * (bottom - top)))[:shape[0], :shape[1]]


def altered(texture: Image.Image, random: np.random.Generator) -> Image.Image:
    "Three of DRAEM's augmentations in a row, those that a gray picture can have."
    steps = (
        lambda one: one.point([round(255 * (level / 255) ** gamma) for gamma in [random.uniform(0.5, 2)] for level in range(256)]),
        lambda one: one.point([min(255, max(0, round(scale * level + shift))) for scale, shift in [(random.uniform(0.8, 1.2), random.uniform(-30, 30))] for level in range(256)]),
        lambda one: ImageEnhance.Sharpness(one).enhance(random.uniform(0, 2)),
        lambda one: ImageOps.solarize(one, int(random.integers(32, 128))),
        lambda one: ImageOps.posterize(one, int(random.integers(1, 9))),
        ImageOps.invert, ImageOps.autocontrast, ImageOps.equalize,
        lambda one: one.rotate(random.uniform(-45, 45), Image.Resampling.BILINEAR),
    )
    for number in random.choice(len(steps), 3, replace=False): texture = steps[number](texture)
    return texture


def perlin_and_paste(images: np.ndarray, random: np.random.Generator, textures: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """DRAEM's generator, one image at a time, step by step on gray images: read a texture, resize and augment it, rotated and thresholded Perlin noise, paste; as there,
    the coin that keeps half of the images clean falls last. Source: Zavrtanik et al. 2021 and the code published with it."""
    damaged, masks = [], []
    for image in images:
        texture = Image.open(textures[random.integers(len(textures))]).resize(image.shape[::-1], Image.Resampling.BILINEAR)
        texture = np.asarray(altered(texture, random), np.float32) / 255
        noise = Image.fromarray(perlin(image.shape, tuple(2 ** random.integers(0, 6, 2)), random).astype(np.float32))
        mask = np.asarray(noise.rotate(random.uniform(-90, 90), Image.Resampling.BILINEAR)) > 0.5
        beta = 0.8 * random.random()
        pasted = np.where(mask, beta * image + (1 - beta) * texture, image).astype(np.float32)
        keep = random.random() > 0.5
        damaged.append(image if keep else pasted); masks.append(np.zeros_like(mask) if keep else mask)
    return np.stack(damaged), np.stack(masks)


def contestants(shape: tuple[int, ...], folder: Path) -> dict:
    "What is timed: name -> function that works on one batch."
    photo = torch.from_numpy(np.tile(data.gravel(), (1, 2))).float() / 255
    corners = [(9 * k % (513 - shape[2]), 5 * k % (1025 - shape[3])) for k in range(shape[0])]
    images = torch.stack([photo[top:top + shape[2], left:left + shape[3]] for top, left in corners])[:, None]
    numpy_images, random, textures = images[:, 0].numpy(), np.random.default_rng(0), [folder / f"{photo.__name__}.jpg" for photo in (data.brick, data.grass, data.gravel)]
    for path in textures: Image.fromarray(getattr(data, path.stem)()).save(path, quality=90)
    model, generator, cpu = build_model().to(memory_format=torch.channels_last), torch.Generator().manual_seed(0), torch.device('cpu')
    optimizer, precision = torch.optim.AdamW(model.parameters()), pick_precision(cpu)

    def training_step():
        with mixed_precision(cpu, precision): reconstruction = model(images).image
        (reconstruction.float() - images).square().mean().backward()
        optimizer.step(); optimizer.zero_grad()

    damages = {f"damage, {preset}": (lambda damage=parse_damage(preset): damage(images, generator)) for preset in PRESETS}
    return damages | {'training step': training_step, 'numpy Perlin and paste': lambda: perlin_and_paste(numpy_images, random, textures)}


def measure(shape: tuple[int, ...], rounds: int, least: float) -> dict:
    "Seconds a batch in each round, interleaved; each turn repeats until `least` seconds have gone by."
    with tempfile.TemporaryDirectory() as folder:
        turns = contestants(shape, Path(folder))
        for turn in turns.values(): turn(); turn()
        seconds = {name: [] for name in turns}
        for _ in range(rounds):
            for name, turn in turns.items():
                start, count = time.perf_counter(), 0
                while time.perf_counter() - start < least or not count: turn(); count += 1
                seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=2, help='of torch')
    parser.add_argument('--batch', type=int, default=8, help='images in a batch')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--least', type=float, default=0.5, help='seconds of one turn of one contestant')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result, missed = {'threads': args.threads, 'batch': args.batch, 'torch': torch.__version__}, []
    for height, width in SIZES:
        seconds, size = measure((args.batch, 1, height, width), args.rounds, args.least), f"{height} x {width}"
        result[size] = rows = {}
        for name, times in seconds.items():
            rows[name] = {'images_a_second': args.batch / statistics.median(times)}
            if not name.startswith('damage'): continue
            for other, limit in LIMITS.items():
                ratio = statistics.median(b / a for a, b in zip(times, seconds[other]))
                rows[name][f"times {other}"] = ratio
                if ratio < limit: missed.append(f"{size}: {name} is {ratio:.1f} times as fast as {other}, at least {limit:g} was wanted")
    if args.json: print(json.dumps(result))
    else:
        for size, rows in ((key, value) for key, value in result.items() if isinstance(value, dict)):
            print(f"\n{size}, batches of {args.batch}, {args.threads} threads")
            for name, row in rows.items():
                ratios = ''.join(f"   {value:6.1f} x {key[6:]}" for key, value in row.items() if key.startswith('times'))
                print(f"  {name:26}{row['images_a_second']:8.1f} images a second{ratios}")
    for line in missed: print(line, file=sys.stderr)
    return bool(missed)


if __name__ == '__main__': sys.exit(main())

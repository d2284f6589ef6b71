"""What each loss costs, forward and backward, as a share of the network's own training step and against the package of the same name.

    python benchmarks/losses.py            # 2 threads, both sizes, by the wall clock: wants a quiet machine
    python benchmarks/losses.py --threads 1 --cpu-time    # on a busy machine: the work itself, whoever else is running

All contestants of a size run in one process, one after the other in each round, so that a noisy machine is noisy for all; a ratio is the median over rounds of the
ratio within a round. Needs the peers: pip install pytorch-msssim focal-frequency-loss kornia (all in the extra `dev`).
"""
import argparse
import json
import statistics
import sys
import time

import kornia
import torch
from focal_frequency_loss import FocalFrequencyLoss
from pytorch_msssim import ms_ssim, ssim

from recon_ad.architectures import build_model
from recon_ad.losses import LOSSES, parse_loss

SHAPES = ((8, 1, 256, 256), (8, 1, 176, 976))
MIXTURES = {
    'mission': 'mse + ssim + focal_frequency + sobel',
    'mission, 3 scales': 'mse@3 + ssim@3 + focal_frequency@3 + sobel@3',
    'RIAD': 'mse + ssim + ms_gms',
    'everything': ' + '.join(LOSSES),
}
PEERS = {  # name: (peer, what of ours it is held against)
    'pytorch-msssim ssim': (lambda x, y: 1 - ssim(x, y, data_range=1.), 'ssim'),
    'pytorch-msssim ms_ssim': (lambda x, y: 1 - ms_ssim(x, y, data_range=1.), 'ms_ssim'),
    'focal-frequency-loss': (FocalFrequencyLoss(), 'focal_frequency'),
    'kornia ssim_loss': (lambda x, y: kornia.losses.ssim_loss(x, y, 11), 'ssim'),
    'kornia sobel': (lambda x, y: (kornia.filters.spatial_gradient(x) - kornia.filters.spatial_gradient(y)).abs().mean(), 'sobel'),
}
LIMITS = (  # what must hold: faster than the peer by this factor; at most this share of the network's step
    ('pytorch-msssim ssim', 5.0), ('focal-frequency-loss', 1.0), ('mission', 0.5),
)


def seconds_of_loss(loss, x, y, clock):
    x = x.clone().requires_grad_()
    start = clock()
    loss(x, y).backward()
    return clock() - start


def seconds_of_network(model, x, clock):
    "Forward and backward in bfloat16 and channels_last, the optimiser's step left out."
    slope = torch.ones_like(x)
    x = x.contiguous(memory_format=torch.channels_last)
    start = clock()
    with torch.autocast('cpu', torch.bfloat16): reconstruction = model(x).image
    reconstruction.backward(slope.to(reconstruction.dtype))
    return clock() - start


def measure(shape, rounds, clock):
    "Seconds of each contestant in each round; the first round warms up."
    model = build_model().to(memory_format=torch.channels_last)
    mixtures = {name: parse_loss(text) for name, text in MIXTURES.items()}
    contestants = {'network': None, **LOSSES, **{name: (lambda x, y, mixture=mixture: mixture(x, y)[0]) for name, mixture in mixtures.items()},
                   **{name: peer for name, (peer, _) in PEERS.items()}}
    times = {name: [] for name in contestants}
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds + 1):
        x, y = torch.rand(2, *shape, generator=generator)
        for name, contestant in contestants.items():
            times[name].append(seconds_of_network(model, x, clock) if name == 'network' else seconds_of_loss(contestant, x, y, clock))
    return {name: seconds[1:] for name, seconds in times.items()}


def ratio(times, above, below):
    return statistics.median(a / b for a, b in zip(times[above], times[below]))


def report(shape, times):
    "A table on paper, and the same as a value."
    rows, size = {}, ' x '.join(map(str, shape))
    print(f'\n{size}, {len(times["network"])} rounds\n{"":24}{"ms":>8}{"of the network":>16}{"peer / ours":>13}')
    for name in times:
        ours = PEERS[name][1] if name in PEERS else None
        rows[name] = {'ms': 1000 * statistics.median(times[name]), 'share_of_network': ratio(times, name, 'network'), **({'peer_over_ours': ratio(times, name, ours)} if ours else {})}
        print(f'{name:24}{rows[name]["ms"]:8.1f}{rows[name]["share_of_network"]:16.3f}' + (f'{rows[name]["peer_over_ours"]:13.1f}' if ours else ''))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--cpu-time', action='store_true', help="processor time instead of the wall clock's; fair with one thread only, since waiting threads spin")
    parser.add_argument('--json', action='store_true', help='print the figures as JSON at the end')
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    results, missed = {}, []
    for shape in SHAPES:
        size = 'x'.join(map(str, shape))
        rows = results[size] = report(shape, measure(shape, arguments.rounds, clock))
        for name, limit in LIMITS:
            if name in PEERS and rows[name]['peer_over_ours'] < limit: missed.append(f'{size}: {name} only {rows[name]["peer_over_ours"]:.1f} times slower, wanted {limit}')
            if name in MIXTURES and rows[name]['share_of_network'] > limit: missed.append(f'{size}: {name} takes {rows[name]["share_of_network"]:.2f} of the step, wanted {limit}')
    if arguments.json: print(json.dumps(results))
    print('\n' + ('\n'.join(missed) or 'All limits hold.'))
    return bool(missed)


if __name__ == '__main__': sys.exit(main())

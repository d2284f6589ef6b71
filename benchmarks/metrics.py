"""Speed and memory of recon_ad.metrics against scikit-learn and a plain per-threshold PRO, as ratios within one run.

    python benchmarks/metrics.py                  # both sizes, three interleaved rounds (about half an hour on two cores)
    python benchmarks/metrics.py --set small --rounds 5

On a machine that does other things too, read the ratios of processor time: waiting does not count there, and our threads count in full.
"""
import argparse
import json
import statistics
import time
import tracemalloc

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from recon_ad.metrics import evaluate
from recon_ad.ranking import area_under_pro, area_under_roc, average_precision, best_f1, find_regions, order_pixels, read_ranking
from recon_ad.streaming import StreamingEvaluation


def make_set(images, size, good, seed=0):
    "Maps like squared errors: smooth structure and fine noise, raised inside one to three defects; about 1.5 % of the pixels are anomalous."
    rng = np.random.default_rng(seed)
    structure = [gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 4) * 8 for _ in range(8)]
    maps, masks = [], []
    for number in range(images):
        values = np.roll(structure[number % 8], (number * 37, number * 101), (0, 1)) + 0.05 * rng.standard_normal((size, size), dtype=np.float32)
        mask = np.zeros((size, size), bool)
        for _ in range(rng.integers(1, 4) if number >= good else 0):
            height, width = rng.integers(size // 50, size // 6, 2)
            top, left = rng.integers(0, size - size // 6, 2)
            mask[top:top + height, left:left + width] = True
        values = np.square(values)
        values[mask] += rng.gamma(2, 0.3, mask.sum()).astype(np.float32)
        maps.append(values)
        masks.append(mask)
    return maps, masks, [int(mask.any()) for mask in masks]


def plain_pro(maps, masks, thresholds=200, limit=0.3):
    "Per-region overlap as most code does it: one pass over all pixels for each of 200 thresholds."
    regions = [[place[region == number] for number in range(areas.size)] for place, region, areas in map(find_regions, masks)]
    normal = [~mask for mask in masks]
    total = sum(int(part.sum()) for part in normal)
    rates, overlaps = [0.], [0.]
    for threshold in np.linspace(max(values.max() for values in maps), min(values.min() for values in maps), thresholds):
        detected = [values >= threshold for values in maps]
        rates.append(sum(int((found & part).sum()) for found, part in zip(detected, normal)) / total)
        overlaps.append(np.mean([found.ravel()[place].mean() for found, places in zip(detected, regions) for place in places]))
    rates, overlaps = np.array(rates), np.array(overlaps)
    inside = rates <= limit
    x, y = np.append(rates[inside], limit), np.append(overlaps[inside], np.interp(limit, rates, overlaps))
    return float(np.trapezoid(y, x) / limit)


def ours(maps, masks):
    "The five pixel figures from one ordering."
    ranking = read_ranking(order_pixels(masks, maps))
    return [float(read(ranking)) for read in (area_under_roc, average_precision, best_f1, area_under_pro)] + [float(area_under_pro(ranking, 0.05))]


def stream(maps, masks, labels):
    "The same figures from fixed bins, image by image."
    streaming = StreamingEvaluation()
    for values, mask, label in zip(maps, masks, labels): streaming.update(values, mask, label)
    return streaming.compute(bootstrap=0)


def peak_share(work, maps):
    "Peak of what is allocated during the work, as a multiple of the maps."
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / sum(values.nbytes for values in maps)


def measure(images, size, good, rounds):
    "Interleaved rounds of all contestants on one test set."
    maps, masks, labels = make_set(images, size, good)
    truth, scores = np.concatenate([mask.ravel() for mask in masks]), np.concatenate([values.ravel() for values in maps])
    contestants = {
        'recon_ad, five pixel figures': lambda: ours(maps, masks),
        'recon_ad, evaluate (tables, curves, 1000 bootstrap sets)': lambda: evaluate(maps, masks, labels),
        'recon_ad, streaming (tables, curves)': lambda: stream(maps, masks, labels),
        'scikit-learn roc_auc_score': lambda: roc_auc_score(truth, scores),
        'scikit-learn average_precision_score': lambda: average_precision_score(truth, scores),
        'plain PRO, 200 thresholds': lambda: plain_pro(maps, masks),
    }
    seconds, processor, values = {name: [] for name in contestants}, {name: [] for name in contestants}, {}
    for _ in range(rounds):
        for name, work in contestants.items():
            start, started = time.perf_counter(), time.process_time()
            values[name] = work()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - started)
    exact = dict(zip(('pixel_auroc', 'pixel_ap', 'pixel_f1_max', 'aupro', 'aupro_05'), values['recon_ad, five pixel figures']))
    streamed = values['recon_ad, streaming (tables, curves)']
    assert abs(exact['pixel_auroc'] - values['scikit-learn roc_auc_score']) < 1e-10
    assert abs(exact['pixel_ap'] - values['scikit-learn average_precision_score']) < 1e-10
    assert all(abs(exact[figure] - streamed.figures[figure]) <= streamed.error_bounds[figure] for figure in exact)
    middle = {kind: {name: statistics.median(times) for name, times in part.items()} for kind, part in (('seconds', seconds), ('processor seconds', processor))}

    def ratio(ours, *theirs): return {kind: round(sum(part[name] for name in theirs) / part[ours], 1) for kind, part in middle.items()}

    figures, whole, *others = contestants
    return {
        'input': f'{images} maps of {size} x {size}, {truth.mean():.2%} anomalous', 'rounds': rounds,
        'medians': {kind: {name: round(value, 2) for name, value in part.items()} for kind, part in middle.items()},
        'five figures, times faster than scikit-learn (two figures) and plain PRO': ratio(figures, *others[1:]),
        'five figures, times faster than scikit-learn (two figures)': ratio(figures, *others[1:3]),
        'evaluate, times faster than scikit-learn (two figures)': ratio(whole, *others[1:3]),
        'peak extra memory, times the maps': {
            'five pixel figures': round(peak_share(lambda: ours(maps, masks), maps), 2),
            'evaluate': round(peak_share(lambda: evaluate(maps, masks, labels), maps), 2),
            'streaming': round(peak_share(lambda: stream(maps, masks, labels), maps), 2)},
        'aupro exact': exact['aupro'], 'aupro, 200 thresholds': values['plain PRO, 200 thresholds'],
        'streaming, largest error bound': max(streamed.error_bounds.values()),
        'streaming, largest error': max(abs(exact[figure] - streamed.figures[figure]) for figure in exact),
        'threads': torch.get_num_threads(),
    }


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--set', choices=('small', 'large', 'both'), default='both', help='160 maps of 512 x 512, 117 of 1024 x 1024, or both')
    options = parser.parse_args()
    for name, (images, size, good) in {'small': (160, 512, 30), 'large': (117, 1024, 20)}.items():
        if options.set in (name, 'both'): print(json.dumps(measure(images, size, good, options.rounds), indent=2), flush=True)

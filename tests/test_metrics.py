"Metrics: golden values, parity with other libraries, properties, faults, shortcuts, and the streaming bound."
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from recon_ad.metrics import (
    PIXEL_FIGURES, UndefinedFigure, aupro, evaluate, f1_max, image_ap, image_auroc, pixel_ap, pixel_auroc, pixel_f1_max)
from recon_ad.ranking import (
    Ranking, area_under_pro, find_regions, order_pixels, ordered_bits, rank_scores, read_ranking)
from recon_ad.shortcuts import STATISTICS, normalise_photometry, shortcut_auroc
from recon_ad.streaming import StreamingEvaluation


def golden_case():
    height, width = 48, 64
    y, x = np.mgrid[:height, :width]
    maps, masks = [], []
    for i in range(6):
        mask = np.zeros((height, width), bool)
        if i % 3 != 0:
            mask[5:9, 5:9] = mask[9:13, 9:13] = True
            if i == 4: mask[30:33, 40:60] = True
            if i == 5: mask[20, 10] = True
        score = np.sin(0.37*x + 0.11*i*y) + np.cos(0.23*y - 0.05*i*x) + 0.8*mask*(1 + 0.3*np.sin(x))
        maps.append(np.round(score, 2))
        masks.append(mask)
    return masks, maps


def rational_aupro(masks, maps, limit):
    "AU-PRO from the definition: one full sort, ties merged, exact arithmetic."
    gain, normal, regions = {}, {}, 0
    for mask, values in zip(masks, maps):
        named, count = ndimage.label(mask, np.ones((3, 3)))
        areas = np.bincount(named.ravel())
        regions += count
        for name, score in zip(named.ravel().tolist(), values.ravel().tolist()):
            if name: gain[score] = gain.get(score, 0) + Fraction(1, int(areas[name]))
            else: normal[score] = normal.get(score, 0) + 1
    total, x, y, area = sum(normal.values()), Fraction(0), Fraction(0), Fraction(0)
    for score in sorted(gain.keys() | normal.keys(), reverse=True):
        right, up = x + Fraction(normal.get(score, 0), total), y + gain.get(score, Fraction(0)) / regions
        if right >= limit:
            at_limit = y + (up - y) * (limit - x) / (right - x)
            return float((area + (limit - x) * (y + at_limit) / 2) / limit)
        area += (right - x) * (y + up) / 2
        x, y = right, up


def random_set(seed, ties=False, images=6, dtype=np.float32):
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for number in range(images):
        shape = tuple(rng.integers(6, 20, 2))
        mask = (ndimage.gaussian_filter(rng.normal(size=shape), 1) > 0.35) & (number % 2 == 1)
        values = rng.normal(size=shape) + mask
        masks.append(mask)
        maps.append((np.round(values) if ties else values).astype(dtype))
    masks[1][0, 0] = True
    return masks, maps


def stream(masks, maps, labels, bits=18, **keywords):
    streaming = StreamingEvaluation(bits)
    for number, (mask, values, label) in enumerate(zip(masks, maps, labels)):
        streaming.update(values, mask, label, **{key: part[number] for key, part in keywords.items()})
    return streaming.compute(bootstrap=0)


# golden values

@pytest.mark.parametrize('limit, reference', [('0.3', 0.3816006804845598), ('0.05', 0.12785440533358874), ('1', 0.7588338305798766)])
def test_golden_aupro(limit, reference):
    masks, maps = golden_case()
    limit = Fraction(limit)
    assert aupro(masks, maps, float(limit)) == pytest.approx(rational_aupro(masks, maps, limit), abs=1e-12)
    # MVTec's code rounds the false-positive rate to float32; rounded likewise, ours has all digits of its value
    ranking = read_ranking(order_pixels(masks, maps))
    rate = (ranking.normal.cumsum().astype(np.float32) / np.float32(ranking.normal.sum())).astype(np.float64)
    rounded = Ranking(ranking.scores, ranking.anomalous, np.diff(rate, prepend=0.), ranking.overlap)
    assert float(area_under_pro(rounded, float(limit))) == pytest.approx(reference, abs=1e-12)


def test_golden_pixels_and_regions():
    masks, maps = golden_case()
    assert pixel_auroc(masks, maps) == pytest.approx(0.7263187416670944, abs=1e-12)
    assert pixel_ap(masks, maps) == pytest.approx(0.12763971191572634, abs=1e-12)
    assert sum(find_regions(mask)[2].size for mask in masks) == 6
    only_defects = [number for number in range(6) if masks[number].any()]
    wrong = aupro([masks[n] for n in only_defects], [maps[n] for n in only_defects])
    assert wrong == pytest.approx(0.3752614812197424, abs=1e-8)  # so good images do count


# parity

@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('seed', range(3))
def test_parity_with_sklearn(seed, ties, dtype):
    masks, maps = random_set(seed, ties, dtype=dtype)
    truth, scores = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    for ours, theirs in [(pixel_auroc(masks, maps), roc_auc_score(truth, scores)), (pixel_ap(masks, maps), average_precision_score(truth, scores)), (pixel_f1_max(masks, maps), best),
                         (image_auroc(truth, scores), roc_auc_score(truth, scores)), (image_ap(truth, scores), average_precision_score(truth, scores)), (f1_max(truth, scores), best)]:
        assert ours == pytest.approx(theirs, abs=1e-12)
    for limit in (Fraction(3, 10), Fraction(1, 20)):
        assert aupro(masks, maps, float(limit)) == pytest.approx(rational_aupro(masks, maps, limit), abs=1e-12)


def test_parity_with_torchmetrics():
    "Equal on scores in [0, 1]. Where they differ: torchmetrics squashes other scores by a sigmoid, which saturates; it works in float32; it has no AU-PRO."
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision
    rng = np.random.default_rng(0)
    truth, scores = rng.random(2000) < 0.2, rng.random(2000).astype(np.float32)
    scores[truth] = np.sqrt(scores[truth])
    tensors = torch.from_numpy(scores), torch.from_numpy(truth).long()
    assert image_auroc(truth, scores) == pytest.approx(float(binary_auroc(*tensors)), abs=2e-6)
    assert image_ap(truth, scores) == pytest.approx(float(binary_average_precision(*tensors)), abs=2e-6)
    assert image_auroc(truth, 1000 * scores + 100) == pytest.approx(image_auroc(truth, scores), abs=2e-4)
    assert float(binary_auroc(1000 * tensors[0] + 100, tensors[1])) == 0.5  # every score became 1


# properties

@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ties=st.booleans(), threads=st.sampled_from([1, 2]))
def test_figures_are_shares_and_depend_on_order_alone(seed, ties, threads):
    masks, maps = random_set(seed, ties, dtype=np.float64)
    labels, before = [int(mask.any()) for mask in masks], torch.get_num_threads()
    result = evaluate(maps, masks, labels, bootstrap=0)
    assert all(0 <= value <= 1 for value in result.figures.values())
    monotone = evaluate([np.exp(values) for values in maps], masks, labels, bootstrap=0)
    order = np.random.default_rng(seed).permutation(len(maps))
    torch.set_num_threads(threads)
    try: shuffled = evaluate([maps[n] for n in order], [masks[n] for n in order], [labels[n] for n in order], bootstrap=0)
    finally: torch.set_num_threads(before)
    for figure, value in result.figures.items():
        assert monotone.figures[figure] == pytest.approx(value, abs=1e-12)
        assert shuffled.figures[figure] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize('piece', [1, 100, 10**6])
def test_unchanged_by_the_size_of_pieces(monkeypatch, piece):
    masks, maps = random_set(5)
    expected = [pixel_auroc(masks, maps), pixel_ap(masks, maps), aupro(masks, maps)]
    monkeypatch.setattr('recon_ad.ranking.PIECE', piece)
    assert [pixel_auroc(masks, maps), pixel_ap(masks, maps), aupro(masks, maps)] == expected


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.integers(10, 20), ties=st.booleans(), offset=st.sampled_from([0., 30., -1000.]))
def test_streaming_stays_within_its_bound(seed, bits, ties, offset):
    masks, maps = random_set(seed, ties)
    maps, labels = [values + np.float32(offset) for values in maps], [int(mask.any()) for mask in masks]
    defects = ['good' if not label else ('a', 'b')[number // 2 % 2] for number, label in enumerate(labels)]
    exact, streamed = evaluate(maps, masks, labels, defects, bootstrap=0), stream(masks, maps, labels, bits, defect=defects)
    for figure in ('image_auroc', 'image_ap', 'image_f1_max'): assert streamed.figures[figure] == exact.figures[figure]
    for figure in PIXEL_FIGURES: assert abs(streamed.figures[figure] - exact.figures[figure]) <= streamed.error_bounds[figure]
    for table in ('by_defect', 'by_size'):
        ours, theirs = getattr(streamed, table), getattr(exact, table)
        assert list(ours.index) == list(theirs.index)
        for kind in ours.index:
            for figure in PIXEL_FIGURES: assert abs(ours.loc[kind, figure] - theirs.loc[kind, figure]) <= streamed.error_bounds[f'{kind}/{figure}']


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=50))
def test_ordered_bits_keep_the_order(values):
    values = np.sort(np.array(values, np.float32))
    bits = ordered_bits(values).astype(np.int64)
    assert ((np.diff(bits) > 0) == (np.diff(values) > 0)).all() and (np.diff(bits) >= 0).all()


def test_streaming_memory_is_constant():
    masks, maps = random_set(0, images=2)
    streaming = StreamingEvaluation(12)
    def held(): return sum(part.nbytes for table in (streaming.counts.normal, streaming.counts.anomalous, streaming.counts.overlap) for part in table.values())
    sizes = []
    for _ in range(3):
        for mask, values in zip(masks, maps): streaming.update(values, mask, int(mask.any()))
        sizes.append(held())
    assert sizes[0] == sizes[1] == sizes[2]


def test_shuffled_labels_give_chance():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], 2000))
    assert image_auroc(labels, rng.normal(size=4000)) == pytest.approx(0.5, abs=0.03)
    assert image_ap(labels, rng.normal(size=4000)) == pytest.approx(0.5, abs=0.04)
    masks = [rng.random((100, 100)) < 0.02 for _ in range(20)]
    maps = [rng.normal(size=(100, 100)) for _ in masks]
    assert pixel_auroc(masks, maps) == pytest.approx(0.5, abs=0.02)
    assert pixel_ap(masks, maps) == pytest.approx(np.mean(masks), abs=0.005)
    assert aupro(masks, maps) == pytest.approx(0.15, abs=0.02)


def test_perfect_and_constant_maps():
    masks, maps = random_set(1)
    perfect = evaluate([mask.astype(np.float32) for mask in masks], masks, [int(mask.any()) for mask in masks])
    assert set(perfect.figures.values()) == {1.0} and set(perfect.intervals.values()) == {(1.0, 1.0)}
    flat = evaluate([np.zeros(mask.shape) for mask in masks], masks, [int(mask.any()) for mask in masks], bootstrap=0).figures
    assert [flat['pixel_auroc'], flat['aupro'], flat['aupro_05']] == pytest.approx([0.5, 0.15, 0.025], abs=1e-12)
    assert flat['pixel_ap'] == pytest.approx(np.concatenate([m.ravel() for m in masks]).mean(), abs=1e-12)


# traps

def test_many_regions_border_and_single_pixels():
    mask = np.zeros((64, 64), bool)
    mask[::8, ::8] = True                                    # 64 regions of one pixel, some at the border
    mask[63, :] = True                                       # and one along the border
    values = np.random.default_rng(0).normal(size=mask.shape)
    assert find_regions(mask)[2].size == 65
    for limit in (Fraction(3, 10), Fraction(1)):
        assert aupro([mask], [values], float(limit)) == pytest.approx(rational_aupro([mask], [values], limit), abs=1e-12)


def test_regions_equal_scipy():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.3, 0.9):
        mask = rng.random((40, 50)) < share
        named, count = ndimage.label(mask, np.ones((3, 3)))
        place, region, areas = find_regions(mask)
        assert (named.ravel()[place] - 1 == region).all() and (areas == np.bincount(named.ravel())[1:]).all() and len(areas) == count


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_broken_map_is_named_and_the_rest_is_judged(bad):
    masks, maps = random_set(2)
    labels, names = [int(mask.any()) for mask in masks], [f'picture_{number}' for number in range(6)]
    defects = ['good' if not label else ('a', 'b')[number // 2 % 2] for number, label in enumerate(labels)]
    whole = evaluate(maps, masks, labels, defects, bootstrap=0)
    maps[3] = maps[3].copy()
    maps[3][1, 1] = bad
    assert defects[3] == 'b' and defects[1] == defects[5] == 'a'
    for result in (evaluate(maps, masks, labels, defects, names=names), stream(masks, maps, labels, name=names, defect=defects)):
        assert np.isnan(result.figures['aupro']) and 'picture_3' in result.reasons['aupro'] and 'picture_3' in result.reasons['b/aupro']
        assert 'a/aupro' not in result.reasons
        assert result.by_defect.loc['a', 'aupro'] == pytest.approx(whole.by_defect.loc['a', 'aupro'], abs=0.05)
        assert 'aupro' not in result.intervals
    with pytest.warns(UndefinedFigure, match='image 3 holds NaN or infinity'): assert np.isnan(aupro(masks, maps))


def test_undefined_is_nan_with_a_reason():
    masks, maps = random_set(3)
    for labels, chosen, image_reason, pixel_reason in (
            ([0, 0], [0, 2], 'no anomalous image', 'no anomalous pixel'), ([1, 1], [1, 3], 'no normal image', None), ([], [], 'no image', 'no pixel')):
        result = evaluate([maps[n] for n in chosen], [masks[n] for n in chosen], labels)
        assert np.isnan(result.figures['image_auroc']) and image_reason in result.reasons['image_auroc']
        if pixel_reason: assert np.isnan(result.figures['aupro']) and pixel_reason in result.reasons['aupro']
        else: assert 0 <= result.figures['aupro'] <= 1
    everything = evaluate([np.ones((3, 3))], [np.ones((3, 3), bool)], [1])
    assert 'no normal pixel' in everything.reasons['pixel_auroc'] and all(np.isnan(list(everything.figures.values())))
    assert 'no masks' in evaluate(maps, None, [0, 1] * 3).reasons['aupro']
    empty_mask = evaluate(maps, [np.zeros_like(mask) for mask in masks], [0, 1] * 3)
    assert 'image 1 is anomalous and its mask is empty' == empty_mask.reasons['pixel_ap'] and np.isfinite(empty_mask.figures['image_auroc'])
    with pytest.warns(UndefinedFigure, match='no normal image'): assert np.isnan(image_auroc([1, 1], [0., 1.]))
    with pytest.warns(UndefinedFigure, match='score of image 1 is nan'): assert np.isnan(f1_max([0, 1], [0., np.nan]))


@pytest.mark.parametrize('change, message', [
    (dict(labels=[0, 1, 2, 1, 0, 1]), 'labels must be 0'), (dict(labels=[0, 1]), 'maps must be as many as labels'), (dict(masks=[np.zeros((2, 2))] * 6), 'for image 0'),
    (dict(labels=[0, 0, 0, 1, 0, 1]), 'a normal image has no anomalous pixel'), (dict(defects=['good'] * 6), "goes with defect 'good'"), (dict(size_edges=(0.1, 0.01)), 'must ascend'),
    (dict(image_scores=[1.]), 'image_scores must be as many'), (dict(maps=torch.zeros(6, 1, 8, 8)), '(1, 8, 8)')])
def test_wrong_input_is_an_error(change, message):
    masks, maps = random_set(4)
    with pytest.raises(ValueError) as error: evaluate(**(dict(maps=maps, masks=masks, labels=[int(mask.any()) for mask in masks]) | change))
    assert message in str(error.value)


def test_containers_are_equal_and_left_alone():
    rng = np.random.default_rng(0)
    maps, masks = rng.normal(size=(4, 12, 10)).astype(np.float32), np.zeros((4, 12, 10), bool)
    masks[2:, 3:6, 2:7] = True
    kept = maps.copy()
    expected = evaluate(maps, masks, [0, 0, 1, 1], seed=1)
    for pair in ((torch.from_numpy(maps), torch.from_numpy(masks)), (list(maps), list(masks.astype(np.uint8) * 255)), (torch.from_numpy(maps).requires_grad_(), masks)):
        other = evaluate(*pair, torch.tensor([0, 0, 1, 1]), seed=1)
        assert other.figures == expected.figures and other.intervals == expected.intervals
    assert (maps == kept).all()


# parts of a test set

def test_tables_equal_evaluations_of_the_parts():
    masks, maps = random_set(6, images=12)
    labels = [int(mask.any()) for mask in masks]
    defects = ['good' if not label else ('a', 'b', 'c')[number // 2 % 3] for number, label in enumerate(labels)]
    result = evaluate(maps, masks, labels, defects, bootstrap=0)
    assert set(result.by_defect.index) == {'a', 'b', 'c'}
    for kind, row in result.by_defect.iterrows():
        part = [n for n in range(12) if defects[n] in ('good', kind)]
        alone = evaluate([maps[n] for n in part], [masks[n] for n in part], [labels[n] for n in part], bootstrap=0)
        for figure, value in alone.figures.items(): assert row[figure] == pytest.approx(value, abs=1e-12)
    assert result.by_size.regions.sum() == result.by_defect.regions.sum() == sum(find_regions(mask)[2].size for mask in masks)
    one_bucket = evaluate(maps, masks, labels, defects, size_edges=(), bootstrap=0)
    for figure, value in result.figures.items(): assert one_bucket.by_size.loc['any size', figure] == pytest.approx(value, abs=1e-12)


def test_size_buckets_judge_their_regions_alone():
    mask = np.zeros((50, 50), bool)
    mask[10:30, 10:30], mask[40, 40] = True, True            # 16 % and 0.04 %
    values = np.where(mask, 0., 0.5) + np.random.default_rng(0).random(mask.shape) * 0.1
    values[40, 40] = 9.                                      # the pixel is found, the square is missed
    table = evaluate([values, np.full((50, 50), 0.5)], [mask, np.zeros((50, 50), bool)], [1, 0], size_edges=(0.01,), bootstrap=0).by_size
    assert table.loc['below 1 %', 'aupro'] == 1 and table.loc['below 1 %', 'pixel_auroc'] == 1 and table.loc['1 % and more', 'pixel_auroc'] == 0


# bootstrap

def test_bootstrap_equals_drawing_images():
    "Binned intervals against evaluating each drawn set exactly."
    from recon_ad.metrics import draw_images
    masks, maps = random_set(8, images=10)
    labels = np.array([mask.any() for mask in masks])
    result = evaluate(maps, masks, labels, bootstrap=60, seed=4)
    drawn = {figure: [] for figure in result.figures}
    for weights in draw_images(labels, 60, 4).astype(int):
        chosen = np.repeat(np.arange(10), weights)
        part = evaluate([maps[n] for n in chosen], [masks[n] for n in chosen], labels[chosen], bootstrap=0).figures
        for figure, value in part.items(): drawn[figure].append(value)
    for figure, (low, high) in result.intervals.items():
        assert (low, high) == pytest.approx(tuple(np.quantile(drawn[figure], [0.025, 0.975])), abs=1e-3), figure


def test_bootstrap_covers_the_truth():
    "Nine in ten intervals of 80 test sets hold the figure of the whole population (95 in 100 in the limit)."
    rng, inside, truth = np.random.default_rng(0), 0, 0.7602  # of scores N(0, 1) and N(1, 1): Phi(1 / sqrt(2))
    for seed in range(80):
        labels = np.repeat([0, 1], 40)
        low, high = evaluate([np.zeros((1, 1))] * 80, None, labels, image_scores=rng.normal(size=80) + labels, bootstrap=300, seed=seed).intervals['image_auroc']
        inside += low <= truth <= high
    assert inside >= 70


# shortcuts

def test_shortcuts_find_the_lamp_and_normalisation_removes_it():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    images = rng.beta(4, 4, (120, 32, 40)) * np.where(labels, 0.9, 0.85)[:, None, None]
    bars = shortcut_auroc(images.astype(np.float32), labels)
    assert set(bars.image_auroc) == set(STATISTICS) and bars.bar > 0.95 and bars.strongest in STATISTICS
    level = normalise_photometry(images)
    assert np.allclose([[image.mean(), image.std()] for image in level], [[0.5, 0.15]], atol=1e-4)
    assert all(image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1 for image in level)
    after = shortcut_auroc(level, labels)
    assert after.bar < 0.75 and after.image_auroc['mean gray level'] == after.image_auroc['spread of gray levels'] == 0.5


def test_clipping_leaves_no_shortcut():
    "Dark cracks are clipped; were the mean not restored, the clipping itself would separate the classes."
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 20)
    images = rng.normal(0.6, 0.05, (40, 60, 60))
    images[20:, 10:12, 10:50] = 0.
    after = shortcut_auroc(normalise_photometry(images), labels)
    assert after.image_auroc['mean gray level'] == 0.5


def test_shortcuts_without_a_class():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        bars = shortcut_auroc(np.zeros((3, 4, 4)), [0, 0, 0])
    assert np.isnan(bars.bar) and bars.strongest == '' and 'one class only' in str(bars)
    assert shortcut_auroc(np.zeros((2, 1, 4, 4), np.uint8), [0, 1]).bar == 0.5


def test_rank_scores_refuses_unequal_lengths():
    with pytest.raises(ValueError, match='2 labels and 3 scores'): rank_scores([0, 1], [1, 2, 3])

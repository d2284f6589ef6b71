"""The losses: one contract for every entry of the registry, parity with other libraries, faults, properties, mixtures."""
import math

import focal_frequency_loss
import kornia
import numpy as np
import pytest
import pytorch_msssim
import torch
from hypothesis import given, settings, strategies as st
from jaxtyping import TypeCheckError
from scipy import ndimage
from skimage import data
from skimage.metrics import structural_similarity

from recon_ad import losses
from recon_ad.losses import (LOSS_MAPS, LOSSES, CompositeLoss, charbonnier, dissimilarity, focal_frequency, focal_frequency_map, gms_map, gradient_magnitude,
                             image_gradient, log_similarity, ms_gms, ms_ssim, ms_ssim_levels, mse, parse_loss, sobel, ssim, ssim_map)
from recon_ad.windows import enlarge, halve, pyramid, scale_limit, window_mean

names = pytest.mark.parametrize('name', LOSSES)
pointwise = [name for name in LOSSES if not name.startswith('ms_') or name == 'mse']


def pair(*shape, seed=0, dtype=torch.float32):
    "A smooth image with texture, and a damaged one."
    generator = np.random.default_rng(seed)
    target = ndimage.gaussian_filter(generator.random(shape), (0, 0, 1, 1))
    target = (target - target.min()) / max(np.ptp(target), 1e-9)
    return torch.tensor(target + 0.1 * generator.standard_normal(shape), dtype=dtype), torch.tensor(target, dtype=dtype)


def photos(size=256):
    "Two real images and what blur and noise make of them, float64."
    target = np.stack([data.camera()[:size, 100:100 + size], data.brick()[:size, :size]])[:, None] / 255
    return torch.tensor(ndimage.gaussian_filter(target, (0, 0, 1, 1)) + 0.02 * np.random.default_rng(0).standard_normal(target.shape)), torch.tensor(target)


def gradient(loss, x, y, *args):
    x = x.clone().requires_grad_()
    value = loss(x, y, *args)
    value.backward()
    return value.detach(), x.grad


# one contract for every entry


def test_every_loss_has_its_map():
    assert set(LOSSES) == set(LOSS_MAPS)
    assert set(LOSSES) >= {'mse', 'l1', 'charbonnier', 'ssim', 'ms_ssim', 'sobel', 'gms', 'ms_gms', 'focal_frequency'}  # names in stored results


@names
@pytest.mark.parametrize('image', [torch.zeros(2, 1, 40, 50), torch.full((2, 1, 40, 50), 0.3), pair(2, 1, 40, 50)[1], 3 * pair(2, 1, 40, 50)[1] - 1],
                         ids=['black', 'flat', 'textured', 'outside'])
def test_equal_images_have_no_loss_and_a_finite_gradient(name, image):
    value, slope = gradient(LOSSES[name], image, image)
    assert value == 0 and slope.isfinite().all() and slope.abs().max() < 1e-6
    assert (LOSS_MAPS[name](image, image) == 0).all()


@names
def test_constant_images_that_differ(name):
    value, slope = gradient(LOSSES[name], torch.full((2, 1, 40, 50), 0.6), torch.full((2, 1, 40, 50), 0.3))
    assert value.isfinite() and slope.isfinite().all()
    assert (value > 0) == (name not in ('sobel', 'gms', 'ms_gms')), 'gradients see no offset, all others do'


@names
@pytest.mark.parametrize('shape', [(2, 1, 1, 1), (1, 1, 2, 3), (1, 1, 5, 64), (1, 1, 9, 9), (2, 1, 37, 61), (1, 3, 24, 24), (1, 1, 176, 976)], ids=str)
def test_any_size(name, shape):
    x, y = pair(*shape)
    value, slope = gradient(LOSSES[name], x, y)
    anomaly_map = LOSS_MAPS[name](x, y)
    assert value.ndim == 0 and value.isfinite() and value >= 0 and slope.isfinite().all()
    assert anomaly_map.shape == (shape[0], *shape[2:]) and anomaly_map.dtype == torch.float32 and (anomaly_map >= 0).all()


@names
@pytest.mark.parametrize('change', [lambda y: 1 - y, lambda y: 5 * y - 2, lambda y: -y, lambda y: y + 100], ids=['inverted', 'stretched', 'negated', 'far'])
def test_values_far_outside(name, change):
    _, y = pair(2, 1, 64, 64)
    value, slope = gradient(LOSSES[name], change(y), y)
    assert value.isfinite() and value >= 0 and slope.isfinite().all()
    assert LOSS_MAPS[name](change(y), y).isfinite().all()


@pytest.mark.parametrize('name', pointwise)
def test_the_loss_is_the_mean_of_its_map(name):
    x, y = pair(3, 1, 48, 56)
    torch.testing.assert_close(LOSSES[name](x, y), LOSS_MAPS[name](x, y).mean(), rtol=1e-4, atol=1e-8)


@names
def test_more_damage_more_loss(name):
    x, y = pair(2, 1, 64, 64)
    values = [LOSSES[name](y + strength * (x - y), y) for strength in (0.25, 0.5, 1, 2)]
    assert sorted(values) == values


@names
def test_weights(name):
    x, y = pair(3, 1, 40, 56)
    loss, ones, some = LOSSES[name], torch.ones(3, 40, 56), torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(x, y, ones), loss(x, y), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(loss(x, y, 7 * some), loss(x, y, some), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(loss(x, y, some[:, None]), loss(x, y, some))
    value, slope = gradient(loss, x, y, 0 * ones)
    assert value == 0 and (slope == 0).all()


@names
def test_ignored_regions_count_nothing(name):
    x, y = pair(2, 1, 64, 256)
    weights = torch.ones(2, 64, 256)
    weights[..., :192] = 0
    torch.testing.assert_close(LOSSES[name](torch.cat([y[..., :48], x[..., 48:]], -1), y, weights), LOSSES[name](x, y, weights), rtol=1e-4, atol=1e-7)
    assert LOSSES[name](torch.cat([x[..., :96], y[..., 96:]], -1), y, weights) < 1e-6


@names
def test_an_ignored_image_is_as_if_it_were_not_there(name):
    x, y = pair(2, 1, 64, 64)
    weights = torch.stack([torch.ones(64, 64), torch.zeros(64, 64)])
    alone, batched = LOSSES[name](x[:1], y[:1]), LOSSES[name](x, y, weights)
    torch.testing.assert_close(batched, alone, rtol=1e-4, atol=1e-7)


@names
def test_damage_under_a_high_weight_weighs_more(name):
    _, y = pair(1, 1, 64, 64)
    x = y.clone()
    x[..., 20:40, 20:40] = 1 - x[..., 20:40, 20:40]
    weights = torch.ones(1, 64, 64)
    weights[..., 20:40, 20:40] = 10
    assert LOSSES[name](x, y, weights) > 2 * LOSSES[name](x, y)


@names
def test_autocast_changes_nothing(name):
    x, y = pair(2, 1, 44, 61)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(LOSSES[name](x, y), LOSSES[name](x, y))
        inside, _ = gradient(LOSSES[name], x, y)
    assert torch.equal(inside, LOSSES[name](x, y))
    rough = x.bfloat16()
    value, slope = gradient(LOSSES[name], rough, y)
    assert value.dtype == torch.float32 and slope.dtype == torch.bfloat16 and torch.equal(value, LOSSES[name](rough.float(), y))


@names
def test_gradcheck(name):
    x, y = pair(2, 1, 5, 6, dtype=torch.float64)
    weights = torch.rand(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # the weights of frequencies take no part in the gradient, but they do in a difference quotient; with alpha 0 they are constant
    options = {'alpha': 0} if name == 'focal_frequency' else {}
    for weight_map in (None, weights):
        assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, y, weight_map, **options), x.requires_grad_(), atol=1e-7)


@names
def test_float64_and_float32_agree(name):
    x, y = pair(2, 1, 64, 80, dtype=torch.float64)
    exact = LOSSES[name](x, y)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(LOSSES[name](x.float(), y.float()).double(), exact, rtol=2e-5, atol=1e-8)


@names
def test_channels_are_averaged(name):
    x, y = pair(2, 3, 40, 48)
    each = [LOSSES[name](x[:, c:c + 1], y[:, c:c + 1]) for c in range(3)]
    torch.testing.assert_close(LOSSES[name](x, y), sum(each) / 3, rtol=1e-4, atol=1e-7)


@names
def test_memory_layout_does_not_matter(name):
    x, y = pair(2, 3, 40, 48)
    torch.testing.assert_close(LOSSES[name](x.contiguous(memory_format=torch.channels_last), y), LOSSES[name](x, y))


@names
def test_shapes_are_checked(name):
    x, y = pair(2, 1, 16, 24)
    # here the types of the signature notice first; without them it is a ValueError, as the notebook shows
    wrong = pytest.raises((ValueError, TypeCheckError), match='one shape|parameter .(target|weight_map)')
    with wrong: LOSSES[name](x, y[..., :-1])
    with wrong: LOSS_MAPS[name](x, y[:1])
    with wrong: LOSSES[name](x, y, torch.ones(2, 24, 16))


# parity


@pytest.mark.parametrize('size', [3, 7, 11])
def test_ssim_is_scikit_images(size):
    x, y = photos()
    own, edge = 1 - ssim_map(x, y, size), size // 2
    for i in range(2):
        _, other = structural_similarity(x[i, 0].numpy(), y[i, 0].numpy(), win_size=size, data_range=1, use_sample_covariance=False, full=True)
        np.testing.assert_allclose(own[i, edge:-edge, edge:-edge], other[edge:-edge, edge:-edge], atol=1e-9)


def test_ssim_with_a_gaussian_is_scikit_images():
    x, y = photos()
    _, other = structural_similarity(x[0, 0].numpy(), y[0, 0].numpy(), gaussian_weights=True, sigma=1.5, data_range=1, use_sample_covariance=False, full=True)
    own = 1 - ssim_map(x, y, 11, 'gaussian')[0]  # scikit-image cuts at 3.5 sigma: 11 pixels
    np.testing.assert_allclose(own[5:-5, 5:-5], other[5:-5, 5:-5], atol=1e-9)


def test_ssim_at_other_ranges():
    x, y = photos()
    torch.testing.assert_close(ssim(255 * x, 255 * y, data_range=255.), ssim(x, y))


def test_ssim_is_pytorch_msssims():
    x, y = photos()
    other = pytorch_msssim.ssim(x, y, data_range=1.)
    torch.testing.assert_close(1 - ssim_map(x, y, 11, 'gaussian')[:, 5:-5, 5:-5].mean(), other, rtol=0, atol=2e-5)  # its window is float32
    assert abs(1 - ssim(x, y, window_size=11, window='gaussian') - other) < 0.01, 'the border counts too, and no more than that'


def test_ms_ssim_is_pytorch_msssims():
    x, y = photos()
    product = 1
    for exponent, level in ms_ssim_levels(x, y, 5, 11, window='gaussian'):
        product = product * (1 - level[..., 5:-5, 5:-5].mean((-2, -1))) ** exponent
    other = pytorch_msssim.ms_ssim(x, y, data_range=1.)
    torch.testing.assert_close(product.mean(), other, rtol=0, atol=1e-5)
    assert abs(1 - ms_ssim(x, y, window_size=11, window='gaussian') - other) < 0.02, 'the border counts too, and no more than that'


def test_ssim_is_twice_kornias():
    x, y = photos()
    other = kornia.losses.ssim_loss(x, y, 11, eps=0., reduction='none')[:, 0]
    torch.testing.assert_close(ssim_map(x, y, 11, 'gaussian')[:, 5:-5, 5:-5], 2 * other[:, 5:-5, 5:-5], rtol=0, atol=1e-10)


def test_charbonnier_is_kornias():
    x, y = photos()
    torch.testing.assert_close(charbonnier(10 * x, 10 * y, epsilon=1.), kornia.losses.charbonnier_loss(10 * x, 10 * y, reduction='mean'))


def test_sobel_is_kornias():
    x, y = photos()
    other = kornia.filters.spatial_gradient(x, 'sobel', normalized=True)
    across, down = image_gradient(x, centre=2)
    torch.testing.assert_close(torch.stack([across, down], 2) / 2, other)
    expected = (other - kornia.filters.spatial_gradient(y, 'sobel', normalized=True)).abs().mean()
    torch.testing.assert_close(sobel(x, y), expected)
    torch.testing.assert_close(sobel(x, y, compare='magnitude'), (kornia.filters.sobel(x, eps=1e-12) - kornia.filters.sobel(y, eps=1e-12)).abs().mean(), rtol=1e-5, atol=1e-8)


def test_gms_is_the_papers():
    x, y = photos()
    prewitt = np.array([[1, 0, -1]] * 3) / 3
    magnitude = lambda image: np.hypot(ndimage.convolve(image, prewitt), ndimage.convolve(image, prewitt.T))
    g, h = magnitude(255 * x[0, 0].numpy()), magnitude(255 * y[0, 0].numpy())
    paper = (2 * g * h + 170) / (g**2 + h**2 + 170)  # on images of 0 to 255
    np.testing.assert_allclose(1 - gms_map(x, y, stability=170 / 255**2)[0, 1:-1, 1:-1], paper[1:-1, 1:-1], atol=1e-4)  # where a photo has no gradient at all, its root is kept at 1e-6
    assert abs(170 / 255**2 - 0.0026) < 2e-5


@pytest.mark.parametrize('options', [{}, {'alpha': 0.5}, {'alpha': 2.}, {'patch_factor': 4}, {'log_matrix': True}, {'average_spectrum': True}, {'alpha': 1.5, 'patch_factor': 2, 'log_matrix': True}], ids=str)
@pytest.mark.parametrize('shape', [(2, 1, 64, 64), (2, 3, 44, 244)], ids=str)
def test_focal_frequency_is_its_packages(options, shape):
    x, y = pair(*shape, dtype=torch.float64)
    theirs = {{'average_spectrum': 'ave_spectrum'}.get(key, key): value for key, value in options.items()}
    own, other = gradient(lambda x, y: focal_frequency(x, y, **options), x, y), gradient(focal_frequency_loss.FocalFrequencyLoss(**theirs), x, y)
    torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    if not options.get('average_spectrum'):
        torch.testing.assert_close(focal_frequency_map(x, y, **options).mean(), other[0], rtol=1e-9, atol=1e-12)


# numerics


def test_ssim_keeps_its_digits_on_faint_texture():
    generator = torch.Generator().manual_seed(0)
    y = 0.9 + 0.002 * torch.rand(1, 1, 64, 64, dtype=torch.float64, generator=generator)
    x = y + 0.002 * torch.rand(1, 1, 64, 64, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(ssim(x.float(), y.float()).double(), ssim(x, y), rtol=1e-3, atol=0)


def test_log_similarity_meets_its_continuation():
    s = torch.tensor([0.05 - 1e-7, 0.05 + 1e-7, 0.5, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    value = log_similarity(1 - s)
    slope, = torch.autograd.grad(value.sum(), s)
    torch.testing.assert_close(value[2:4], s[2:4].log())
    torch.testing.assert_close(value[0], value[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(slope[0], slope[1], rtol=1e-4, atol=0)
    assert value[4].isfinite() and slope[4] > 0.5


@pytest.mark.parametrize('target', [pair(1, 1, 64, 64)[1], torch.rand(1, 1, 56, 112, generator=torch.Generator().manual_seed(0))], ids=['smooth', 'noise'])
def test_ms_ssim_learns_from_the_negative(target):
    image = (1 - target).requires_grad_()
    optimizer = torch.optim.Adam([image], 0.04)
    first = ms_ssim(image, target).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss = ms_ssim(image, target)
        loss.backward()
        optimizer.step()
    assert math.isfinite(loss.item()) and loss < 0.5 * first


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from(['uniform', 'gaussian']), st.sampled_from([1, 3, 7, 11]))
def test_ssim_stays_in_its_range(height, width, seed, window, size):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, 1, 1, height, width, generator=generator)
    found = ssim_map(x, y, size, window)
    assert (found >= 0).all() and (found <= 2).all()
    torch.testing.assert_close(found, ssim_map(y, x, size, window), rtol=1e-3, atol=1e-4)


# windows and scales


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3, 7, 21]), st.sampled_from(['uniform', 'gaussian']))
def test_window_mean_is_a_renormalised_convolution(height, width, size, window):
    image = np.random.default_rng(0).random((height, width))
    place = np.arange(size) - size // 2
    taps = np.ones(size) if window == 'uniform' else np.exp(-place**2 / 8)
    blur = lambda a: ndimage.convolve1d(ndimage.convolve1d(a, taps, 0, mode='constant'), taps, 1, mode='constant')
    np.testing.assert_allclose(window_mean(torch.tensor(image), size, window, sigma=2.), blur(image) / blur(np.ones_like(image)), atol=1e-12)


@pytest.mark.parametrize('options', [{'size': 4}, {'size': 0}, {'size': 3, 'window': 'round'}], ids=str)
def test_window_faults(options):
    with pytest.raises(ValueError, match='window'): window_mean(torch.rand(4, 4), **options)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70))
def test_pyramids_and_back(height, width):
    scales = scale_limit(height, width)
    levels = pyramid(torch.full((1, 1, height, width), 0.25), scales)
    assert min(levels[-1].shape[-2:]) >= min(2, height, width)
    for level in levels:
        assert (level == 0.25).all()
        assert enlarge(level, (height, width)).shape == (1, 1, height, width)
    with pytest.raises(ValueError, match=f'allow 1 to {scales}'): pyramid(levels[0], scales + 1)


def test_halving_sees_every_pixel():
    for place in range(5):
        image = torch.zeros(1, 1, 5, 5)
        image[..., place, place] = 1
        assert halve(image).sum() > 0


# mixtures


def test_mixture_is_the_weighted_sum():
    x, y = pair(2, 1, 48, 64)
    total, terms = CompositeLoss({name: 0.1 * (i + 1) for i, name in enumerate(LOSSES)})(x, y)
    torch.testing.assert_close(total, sum(0.1 * (i + 1) * loss(x, y) for i, loss in enumerate(LOSSES.values())))
    for name, value in terms.items():
        torch.testing.assert_close(value, LOSSES[name](x, y))
        assert not value.requires_grad


@names
def test_every_loss_at_several_scales(name):
    x, y = pair(2, 1, 45, 64)
    weights = torch.rand(2, 45, 64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    total, terms = CompositeLoss({f'{name}@3': 2.0}, scale_weights=[3, 2, 1])(x, y, weights)
    levels = zip(pyramid(x, 3), pyramid(y, 3), pyramid(weights[:, None], 3))
    torch.testing.assert_close(total, 2 * sum(share * LOSSES[name](*level) for share, level in zip((3, 2, 1), levels)) / 6)
    total.backward()
    assert list(terms) == [f'{name}@3'] and x.grad.isfinite().all()


def test_scales_hold_for_terms_without_their_own():
    terms = CompositeLoss({'mse': 1, 'l1@2': 1, 'ms_ssim': 1, 'ms_gms': 1, 'ms_gms@2': 1}, scales=3).terms
    assert [term.scales for term in terms.values()] == [3, 2, 1, 1, 2]


def test_mixture_in_mixed_precision():
    x, y = pair(2, 1, 44, 61)
    loss = parse_loss('mse + ssim@2 + focal_frequency')
    with torch.autocast('cpu', torch.bfloat16): total, _ = loss(x.bfloat16(), y)
    assert total.dtype == torch.float32 and torch.equal(total, loss(x.bfloat16().float(), y)[0])


def test_balance_brings_each_term_to_its_weight():
    loss = parse_loss('mse + 2*ssim + 0.5*focal_frequency', balance=3)
    batches = [pair(2, 1, 32, 32, seed=seed) for seed in range(5)]
    for x, y in batches[:3]: total, terms = loss(x.requires_grad_(), y)
    fixed = loss.weights
    mean = {name: np.mean([LOSSES[name](x, y).item() for x, y in batches[:3]]) for name in terms}
    assert {name: weight * mean[name] for name, weight in fixed.items()} == pytest.approx({'mse': 1, 'ssim': 2, 'focal_frequency': 0.5})
    for x, y in batches[3:]: total, terms = loss(x.requires_grad_(), y)
    assert loss.weights == fixed, 'after the first batches nothing moves'
    assert total.item() == pytest.approx(sum(fixed[name] * float(value) for name, value in terms.items()))


def test_balance_learns_in_training_only():
    loss, (x, y) = parse_loss('mse + ssim', balance=True), pair(2, 1, 32, 32)
    loss(x, y)
    assert loss.seen == 0
    loss(x.requires_grad_(), y)
    assert loss.seen == 1


def test_balance_goes_on_where_it_stopped():
    batches = [pair(2, 1, 32, 32, seed=seed) for seed in range(4)]
    whole, first, second = (parse_loss('mse + ssim', balance=4) for _ in range(3))
    for x, y in batches: whole(x.requires_grad_(), y)
    for x, y in batches[:2]: first(x, y)
    second.load_state_dict(first.state_dict())
    for x, y in batches[2:]: second(x, y)
    assert second.weights == whole.weights
    with pytest.raises(ValueError, match='mse, l1'): parse_loss('mse + l1').load_state_dict(whole.state_dict())


def test_balance_survives_a_term_that_is_zero():
    loss, (_, y) = parse_loss('mse + ssim', balance=2), pair(2, 1, 32, 32)
    total, _ = loss(y.clone().requires_grad_(), y)
    assert total == 0 and all(math.isfinite(weight) for weight in loss.weights.values())


@pytest.mark.parametrize('text, terms', [
    ('mse', {'mse': 1.0}),
    (' 0.5 * ssim@3+1e-2*l1 + 1e+1*gms ', {'ssim@3': 0.5, 'l1': 0.01, 'gms': 10.0}),
    ('mse+mse@2', {'mse': 1.0, 'mse@2': 1.0}),
    ('0*sobel + .5*charbonnier', {'sobel': 0.0, 'charbonnier': 0.5}),
])
def test_text(text, terms):
    loss = parse_loss(text)
    assert {name: term.weight for name, term in loss.terms.items()} == terms
    assert parse_loss(str(loss)).terms == loss.terms


@pytest.mark.parametrize('text, words', [
    ('mse + sim', "unknown 'sim'; known are mse, l1"), ('', 'known names are mse'), ('mse + ', 'known names are mse'), ('two*mse', 'two'),
    ('mse*2', 'no .weight.name'), ('-1*mse', '>= 0'), ('nan*mse', 'finite'), ('mse@0', '>= 1'), ('mse@', 'whole number'), ('mse@two', 'whole number'), ('mse + mse', 'twice'),
    ('mse - ssim', 'no .weight.name'), ('ssim(3)', 'no .weight.name'),
])
def test_text_faults(text, words):
    with pytest.raises(ValueError, match=words): parse_loss(text)


@pytest.mark.parametrize('settings', [{'scales': 0}, {'scales': 3, 'scale_weights': [1, 1]}, {'scales': 2, 'scale_weights': [0, 1]}, {'scales': 2, 'scale_weights': [1, -1]}], ids=str)
def test_scale_faults(settings):
    with pytest.raises(ValueError, match='scale'): CompositeLoss({'mse': 1}, **settings)


def test_more_scales_than_the_image_has():
    x, y = pair(1, 1, 16, 64)
    with pytest.raises(ValueError, match='16 x 64 pixels allow 1 to 4, got 5'): parse_loss('mse', scales=5)(x, y)
    with pytest.raises(ValueError, match='16 x 64'): ms_gms(x, y, scales=5)
    with pytest.raises(ValueError, match='1 to 5'): ms_ssim(x, y, scales=6)


def test_an_empty_mixture():
    with pytest.raises(ValueError, match='at least one'): CompositeLoss({})


def test_a_loss_of_ones_own(monkeypatch):
    monkeypatch.setitem(losses.LOSSES, 'worst', lambda x, y, weight_map=None: (x - y).abs().max())
    x, y = pair(1, 1, 16, 16)
    assert parse_loss('0.5*worst')(x, y)[0] == 0.5 * (x - y).abs().max()


def test_dissimilarity_and_magnitude_by_hand():
    x, y = torch.full((1, 1, 8, 8), 0.75), torch.full((1, 1, 8, 8), 0.25)
    luminance, structure = dissimilarity(x, y)
    torch.testing.assert_close(luminance, torch.full_like(x, 0.25 / (0.75**2 + 0.25**2 + 1e-4)))
    assert (structure == 0).all() and (gradient_magnitude(x) < 2e-6).all() and mse(x, y) == 0.25

"""What every kind of damage promises, whatever its shape, content and blending."""
from dataclasses import replace

import pytest
import torch
from torch import Generator

from recon_ad import synthesis
from recon_ad.shapes import Boxes
from recon_ad.synthesis import PRESETS, SYNTHESES, VISIBLE, Damage, Damaged, Kind, Term, parse_damage, preview_damage, soft_mask

SIZES = [(176, 976), (256, 256), (97, 131)]
EACH_KIND = pytest.mark.parametrize('name', SYNTHESES)


def normal_images(count=4, size=(97, 131), seed=0):
    "Smooth shading, fine grain, and a grid of dark dots: something to displace, blur, exchange and erase."
    random, (h, w) = Generator().manual_seed(seed), size
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    shift = torch.rand((count, 2, 1, 1), generator=random) * 12
    dots = ((y + shift[:, 0]) % 12 < 5) & ((x + shift[:, 1]) % 14 < 6)
    return (0.6 - 0.25 * dots + 0.1 * y / h + 0.03 * torch.randn((count, h, w), generator=random)).clamp(0, 1)[:, None]


def a_part(count, size):
    "An ellipse in the middle, different in each image."
    (h, w), grow = size, torch.linspace(0.6, 0.9, count)[:, None, None]
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    return (y / grow) ** 2 + (x / grow) ** 2 < 1


def change_of(damaged):
    return (damaged.image - damaged.target)[:, 0]


@EACH_KIND
def test_equal_seed_equal_damage_and_other_seed_other_damage(name):
    images = normal_images()
    first, again, other = (SYNTHESES[name](images, Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.image, again.image) and torch.equal(first.mask, again.mask)
    assert not torch.equal(first.image, other.image)


@EACH_KIND
def test_two_epochs_differ(name):
    images, random = normal_images(), Generator().manual_seed(0)
    assert not torch.equal(SYNTHESES[name](images, random).image, SYNTHESES[name](images, random).image)


@EACH_KIND
def test_nothing_but_the_generator_is_asked_for_chance(name):
    images = normal_images()
    torch.manual_seed(0)
    first = SYNTHESES[name](images, Generator().manual_seed(5))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(first.image, SYNTHESES[name](images, Generator().manual_seed(5)).image)
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


@EACH_KIND
@pytest.mark.parametrize('size', SIZES)
def test_in_range_finite_same_type_and_a_mask_that_tells_the_truth(name, size):
    images = normal_images(3, size)
    before = images.clone()
    damaged = SYNTHESES[name](images, Generator().manual_seed(1))
    assert torch.equal(images, before) and torch.equal(damaged.target, before)
    assert damaged.image.shape == images.shape and damaged.image.dtype == torch.float32
    assert damaged.mask.shape == (3, *size) and damaged.mask.dtype == torch.bool
    assert damaged.image.isfinite().all() and damaged.image.min() >= 0 and damaged.image.max() <= 1
    size_of_change = change_of(damaged).abs()
    assert damaged.mask.flatten(1).any(1).all()
    assert size_of_change[damaged.mask].min() >= VISIBLE - 1e-6
    outside = size_of_change[~damaged.mask]
    if outside.numel(): assert outside.max() < VISIBLE if SYNTHESES[name].keeps_faint else outside.max() == 0


@EACH_KIND
def test_damage_falls_on_the_foreground(name):
    images = normal_images(6)
    part = a_part(6, (97, 131))
    damaged = SYNTHESES[name](images, Generator().manual_seed(2), part)
    assert damaged.mask.flatten(1).any(1).all()
    assert not (change_of(damaged)[~part] != 0).any()


@EACH_KIND
def test_an_image_without_foreground_stays_as_it_is(name):
    images, part = normal_images(3), a_part(3, (97, 131))
    part[1] = False
    damaged = SYNTHESES[name](images, Generator().manual_seed(2), part)
    assert torch.equal(damaged.image[1], images[1]) and not damaged.mask[1].any()
    assert damaged.mask[0].any() and damaged.mask[2].any()


@pytest.mark.parametrize('name', sorted(SYNTHESES.keys() - {'cutpaste'}))  # the centre of a rectangle may lie between two pixels, where rounding decides
def test_a_box_around_the_shape_saves_time_and_changes_nothing(name, monkeypatch):
    images, part, around = normal_images(3, (176, 256)), a_part(3, (176, 256)), synthesis.boxes_around
    boxed = SYNTHESES[name](images, Generator().manual_seed(1), part)
    monkeypatch.setattr(synthesis, 'boxes_around', lambda cover, **wide: Boxes.whole(3, (176, 256)) if wide else around(cover))
    whole = SYNTHESES[name](images, Generator().manual_seed(1), part)
    assert (boxed.image - whole.image).abs().max() < VISIBLE + 1e-4  # rounding may take a pixel over the limit of visibility
    assert (boxed.mask != whole.mask).sum() <= 3


@EACH_KIND
@pytest.mark.parametrize('level', [0.0, 0.5, 1.0])
def test_there_is_damage_even_on_a_flat_image_and_in_a_batch_of_one(name, level):
    "Black, grey, white: nothing to exchange, to blur or to erase, and no room on one side of the grey range."
    damaged = SYNTHESES[name](torch.full((1, 1, 97, 131), level), Generator().manual_seed(3))
    assert damaged.mask.any()
    assert damaged.image.isfinite().all()


@EACH_KIND
def test_area_and_contrast_lie_in_the_stated_range(name):
    kind, images = SYNTHESES[name], normal_images(48)
    damaged = kind(images, Generator().manual_seed(4))
    contrast = 255 * (change_of(damaged).abs() * damaged.mask).sum((1, 2)) / damaged.mask.sum((1, 2))
    assert contrast.min() >= 0.7 * kind.contrast[0]                     # clipping at black and white takes some
    assert contrast.max() <= 1.15 * kind.contrast[1] + 1
    share = damaged.mask.float().mean((1, 2))
    places = 2 if name == 'swaps' else 1
    # cells come in whole cells (16 x 16 pixels are 2 % of this image), strokes with an anti-aliased fringe
    assert share.max() <= 1.5 * places * kind.area[1] + (0.02 if 'cells' in str(kind.shape) else 0)
    if name not in ('gaussian', 'pepper'): assert share.min() >= 4 / (97 * 131) / 4  # never less than a pixel


@EACH_KIND
def test_strength_reaches_from_barely_visible_to_strong(name):
    kind, images = SYNTHESES[name], normal_images(48)
    damaged = kind(images, Generator().manual_seed(4))
    contrast = 255 * (change_of(damaged).abs() * damaged.mask).sum((1, 2)) / damaged.mask.sum((1, 2))
    assert contrast.min() < 1.8 * kind.contrast[0]
    assert contrast.max() > 2 * contrast.min()


@pytest.mark.parametrize('name', ['spots', 'stains', 'scratches', 'cracks'])
def test_asked_ranges_are_obeyed(name):
    kind = Term(name, 1.0, (0.004, 0.006), (30.0, 40.0)).kind()
    damaged = kind(normal_images(48, (176, 200)), Generator().manual_seed(4))
    contrast = 255 * (change_of(damaged).abs() * damaged.mask).sum((1, 2)) / damaged.mask.sum((1, 2))
    share = damaged.mask.float().mean((1, 2))
    assert 29 <= contrast.min() and contrast.max() <= 44
    assert 0.0025 < share.mean() and share.max() <= 0.0085


def test_every_kind_is_in_the_range_of_the_text_and_describes_itself():
    for name, kind in SYNTHESES.items():
        assert isinstance(kind, Kind) and kind.summary
        assert 0 < kind.area[0] <= kind.area[1] <= 1 and 4 <= kind.contrast[0] <= kind.contrast[1] <= 255
        assert parse_damage(name).terms == (Term(name),)


@pytest.mark.parametrize('preset', PRESETS)
def test_presets_hold_known_kinds_and_survive_a_round_trip(preset):
    damage = parse_damage(preset)
    assert {term.name for term in damage.terms} <= set(SYNTHESES)
    assert parse_damage(str(damage)) == damage


@pytest.mark.parametrize('spec', ['none', 'texture; noise=4', '2*texture + cracks', 'object(contrast=10:20); probability=1', '0.25*cracks(area=0.1%:1%)+spots'])
def test_text_round_trip(spec):
    assert parse_damage(str(parse_damage(spec))) == parse_damage(spec)


@pytest.mark.parametrize('spec, says', [
    ('craks', "no kind 'craks'; there are rectangles"), ('', 'a term looks like'), ('cracks + ', 'a term looks like'), ('x*cracks', 'a term looks like'),
    ('cracks(size=3)', 'area and contrast, got size'), ('cracks(area=0:1)', 'rising range of shares'), ('cracks(area=200%)', 'rising range of shares'),
    ('cracks(contrast=1:60)', r'grey levels in \[4, 255\], got 1:60'), ('texture; p=1', "got 'p'"), ('texture; probability=2', r'probability must lie in \[0, 1\]'),
    ('texture; noise=-1', 'noise must be at least 0'), ('cracks(area=x)', 'x'),
])
def test_faulty_text_is_refused_with_a_reason(spec, says):
    with pytest.raises(ValueError, match=says): parse_damage(spec)


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('size', SIZES)
def test_mixture_damages_half_and_leaves_the_rest(preset, size):
    images, damage, random = normal_images(5, size), parse_damage(preset), Generator().manual_seed(0)
    counts = []
    for _ in range(8):
        damaged = damage(images, random)
        assert isinstance(damaged, Damaged)
        hit = damaged.mask.flatten(1).any(1)
        counts.append(int(hit.sum()))
        assert torch.equal(damaged.image[~hit], images[~hit]) and torch.equal(damaged.target, images)
        assert (change_of(damaged).abs()[damaged.mask] >= VISIBLE - 1e-6).all()
    assert set(counts) == {2, 3}  # half of five, rounded at random


def test_mixture_is_reproducible_and_follows_probability_and_weights():
    images = normal_images(8)
    for spec in PRESETS:
        first, again = (parse_damage(spec)(images, Generator().manual_seed(1)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not parse_damage('texture', probability=0.0)(images, Generator()).mask.any()
    assert parse_damage('texture', probability=1.0)(images, Generator()).mask.flatten(1).any(1).all()
    whole = Damage((Term('rectangles', 3.0), Term('gaussian', 1.0)), probability=1.0)
    random, counted = Generator().manual_seed(0), 0
    for _ in range(50): counted += int((whole(images, random).mask.float().mean((1, 2)) > 0.3).sum())
    assert 0.18 < counted / 400 < 0.32  # one in four


def test_foreground_for_all_and_for_each():
    images, part = normal_images(4), a_part(4, (97, 131))
    for foreground in (part[0], part):
        damaged = parse_damage('object', probability=1.0)(images, Generator().manual_seed(1), foreground)
        assert not damaged.mask[~foreground.expand(4, -1, -1)].any()


@pytest.mark.parametrize('keep', [True, False])
def test_noise_on_top_is_kept_in_the_target_or_not(keep):
    images = normal_images(4)
    plain, noisy = (parse_damage(f'spots; noise={level}, keep_noise={int(keep)}')(images, Generator().manual_seed(1)) for level in (0, 6))
    assert torch.equal(plain.mask, noisy.mask)
    spread = float((noisy.target - images).std()) * 255
    assert abs(spread - 6) < 0.3 if keep else spread == 0
    assert abs(float((noisy.image - plain.image).std()) * 255 - 6) < 0.3


def test_soft_mask_follows_the_change():
    damaged = SYNTHESES['stains'](normal_images(), Generator().manual_seed(0))
    soft = soft_mask(damaged, half=16.0)
    assert soft.min() >= 0 and soft.max() < 1 and not soft[~damaged.mask].any()
    change = change_of(damaged).abs() * 255
    assert (soft[change > 16.01] > 0.5).all() and (soft[change < 15.99] < 0.5).all()


def test_a_new_kind_comes_by_combination(monkeypatch):
    monkeypatch.setitem(SYNTHESES, 'mould', replace(SYNTHESES['cells'], content=SYNTHESES['spots'].content, summary='cells of a tone'))
    damaged = parse_damage('mould', probability=1.0)(normal_images(), Generator().manual_seed(0))
    assert damaged.mask.flatten(1).any(1).all()


def test_preview_shows_foreground_damage_and_mask():
    images = (normal_images(3)[:, 0] * 255).byte().numpy()
    figure = preview_damage(images, '2*cracks + stains', count=2)
    assert sum(bool(axes.images) for axes in figure.axes) == 6

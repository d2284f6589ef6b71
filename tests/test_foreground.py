"""Where the part is: decided from normal images alone, whatever their depth, size and number."""
import numpy as np
import pytest
from skimage import data

from recon_ad.foreground import find_foreground, fit_foreground


def plates(count=12, size=(96, 128), wander=0.0, background=40, part=170, pattern=0.0, seed=0):
    "Rectangular parts on a background, which may have stripes; and where they are."
    random, (h, w) = np.random.default_rng(seed), size
    y, x = np.mgrid[:h, :w]
    images, truth = [], []
    for _ in range(count):
        cy, cx = h / 2 + wander * random.uniform(-1, 1), w / 2 + wander * random.uniform(-1, 1)
        inside = (abs(y - cy) < 0.28 * h) & (abs(x - cx) < 0.3 * w)
        ground = background + pattern * (x % (w // 8) < max(2, w // 40))
        images.append(np.where(inside, part, ground) + random.normal(0, 3, size))
        truth.append(inside)
    return np.clip(images, 0, 255).astype(np.uint8), np.stack(truth)


def overlap(found, truth):
    found = np.broadcast_to(found, truth.shape)
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize('size', [(96, 128), (176, 976), (97, 131), (256, 256)])
@pytest.mark.parametrize('background, part', [(40, 170), (250, 60)])
def test_an_aligned_part_is_found_dark_or_bright(size, background, part):
    images, truth = plates(size=size, background=background, part=part)
    found = find_foreground(images)
    assert found.shape == size and found.dtype == bool
    assert overlap(found, truth) > 0.85 and (found | ~truth).mean() > 0.995  # a margin, but nothing of the part lost


def test_a_wandering_part_gets_a_mask_for_each_image():
    images, truth = plates(wander=20.0)
    found = find_foreground(images)
    assert found.shape == images.shape
    assert overlap(found, truth) > 0.85 and (found | ~truth).mean() > 0.995


def test_a_fitted_foreground_serves_for_other_images():
    images, truth = plates(count=20, wander=20.0)
    fitted = fit_foreground(images[:10])
    assert overlap(fitted.masks(images[10:]), truth[10:]) > 0.85


def test_stripes_of_the_background_are_no_part():
    images, truth = plates(pattern=90, size=(192, 256), background=60, part=200)
    fitted = fit_foreground(images)
    assert fitted.kind == 'object' and overlap(fitted.common, truth) > 0.6


@pytest.mark.parametrize('photo', ['brick', 'grass', 'gravel'])
def test_a_texture_has_no_background(photo):
    random = np.random.default_rng(0)
    crops = np.stack([getattr(data, photo)()[r:r + 128, c:c + 160] for r, c in random.integers(0, 350, (12, 2))])
    assert fit_foreground(crops).kind == 'texture' and find_foreground(crops).all()
    assert find_foreground(crops, kind='object').shape[-2:] == (128, 160)  # by order: whatever it finds, it is a mask


@pytest.mark.parametrize('images', [np.zeros((3, 40, 50), np.uint8), np.full((1, 40, 50), 255, np.uint8), np.random.default_rng(0).integers(0, 255, (4, 8, 9)).astype(np.uint8)])
@pytest.mark.parametrize('kind', ['auto', 'object'])
def test_images_without_a_part_are_part_all_over(images, kind):
    found = find_foreground(images, kind)
    assert found.any(axis=(-2, -1)).all()


def test_sixteen_bit_and_a_slow_gradient():
    images, _ = plates()
    assert np.array_equal(find_foreground(images.astype(np.uint16) * 257), find_foreground(images))
    ramp = np.broadcast_to(np.linspace(80, 160, 128), (10, 96, 128)).astype(np.uint8)  # uneven light is no object
    assert fit_foreground(ramp).kind == 'texture'


def test_own_region_overrides_and_faults_are_named():
    images, truth = plates()
    assert np.array_equal(find_foreground(images, own=truth[0]), truth[0])
    with pytest.raises(ValueError, match='own must have shape'): find_foreground(images, own=truth[0, :5])
    with pytest.raises(ValueError, match='empty mask'): find_foreground(images, own=truth & False)
    with pytest.raises(ValueError, match='at least one image'): fit_foreground(images[:0])
    with pytest.raises(ValueError, match="got 'thing'"): find_foreground(images, kind='thing')


def test_the_decision_says_why():
    said = str(fit_foreground(plates()[0]))
    assert said.startswith('object: a part on a background, in the same place in all images (') and 'separate to 0.9' in said
    assert str(fit_foreground(plates(wander=20.0)[0])).startswith('object: a part on a background, not in the same place')
    assert str(fit_foreground(plates()[0], kind='texture')).startswith('texture: the material fills the image (')

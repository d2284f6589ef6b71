"The data room: what is read, how it is fitted and restored, and what is said of a broken folder."
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from skimage import data as photographs
from skimage.transform import resize

from recon_ad.data import (
    FITS, PIXEL_LIMIT, Look, Sample, Shown, as_images, as_rows, brightness, deepen, fit_image, fit_mask, hold_out,
    image_size, list_images, load_images, load_masks, look_at, looks_of, one_at_a_time, open_image, pixel_limit,
    read_image, read_mask, read_with_color, restore_map, sum_up, to_float, unlike_training,
)
from recon_ad.layouts import DatasetError, check_dataset, list_samples

GRAY = photographs.camera()[::4, ::2]


def write_set(root, suffix='.png', mask_ending='_mask'):
    "Four train, two good and two defective images, a mask each."
    for folder, numbers in {'train/good': range(4), 'test/good': range(4, 6), 'test/hole': range(6, 8)}.items():
        (root/folder).mkdir(parents=True)
        for number in numbers: Image.fromarray(np.roll(GRAY, 7 * number, 1)).save(root/folder/f'{number:03}{suffix}')
    (root/'ground_truth/hole').mkdir(parents=True)
    mask = np.zeros(GRAY.shape, np.uint8)
    mask[10:20, 30:50] = 255
    for number in (6, 7): Image.fromarray(mask).save(root/f'ground_truth/hole/{number:03}{mask_ending}.png')
    return root


# reading

@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.tif', '.tiff', '.PNG'])
def test_lossless_formats_come_back_to_the_bit(tmp_path, suffix):
    Image.fromarray(GRAY).save(tmp_path/f'image{suffix}')
    assert np.array_equal(read_image(tmp_path/f'image{suffix}'), GRAY)


@pytest.mark.parametrize('suffix', ['.jpg', '.jpeg'])
def test_jpeg_comes_back_nearly(tmp_path, suffix):
    Image.fromarray(GRAY).save(tmp_path/f'image{suffix}', quality=98)
    assert np.abs(read_image(tmp_path/f'image{suffix}').astype(int) - GRAY).mean() < 2


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', '1', 'LA', 'L', 'CMYK'])
def test_every_mode_becomes_one_channel(tmp_path, mode):
    file = tmp_path/('image.tif' if mode == 'CMYK' else 'image.png')
    Image.fromarray(photographs.astronaut()).convert(mode).save(file)
    image = read_image(file)
    assert image.dtype == np.uint8 and image.shape == (512, 512) and len(np.unique(image)) > 1


def test_colour_becomes_rec_601_luma_and_alpha_is_ignored(tmp_path):
    colours = np.array([[[255, 0, 0, 255], [0, 255, 0, 0], [0, 0, 255, 7], [255, 255, 255, 0]]], np.uint8)
    Image.fromarray(colours, 'RGBA').save(tmp_path/'image.png')
    assert read_image(tmp_path/'image.png').tolist() == [[76, 150, 29, 255]]


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_16_bit_gray_is_kept(tmp_path, suffix):
    deep = np.array([[0, 1, 255, 256], [32767, 32768, 65534, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path/f'deep{suffix}')
    read = read_image(tmp_path/f'deep{suffix}')
    assert read.dtype == np.uint16 and np.array_equal(read, deep)
    assert to_float(read[None])[0, 0, 1, 3] == 1


@pytest.mark.parametrize('planar', ['contig', 'separate'])
def test_16_bit_colour_tiff_is_not_cut_to_8(tmp_path, planar):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path/'deep.tif', deep if planar == 'contig' else np.moveaxis(deep, 2, 0), photometric='rgb', planarconfig=planar)
    luma = np.round(deep @ np.array([0.299, 0.587, 0.114]))
    assert np.array_equal(read_image(tmp_path/'deep.tif'), luma)


def test_float_image_is_refused_with_the_remedy(tmp_path):
    Image.fromarray(GRAY / np.float32(255)).save(tmp_path/'float.tif')
    with pytest.raises(ValueError, match='save it with 8 or 16 bits'): read_image(tmp_path/'float.tif')


def test_a_camera_held_upright_is_turned(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GRAY).save(tmp_path/'upright.jpg', exif=exif, quality=98)
    assert read_image(tmp_path/'upright.jpg').shape == GRAY.shape[::-1] == image_size(tmp_path/'upright.jpg')


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif'])
def test_every_truncated_format_is_named(tmp_path, suffix):
    file = tmp_path/f'cut{suffix}'
    Image.fromarray(GRAY).save(file)
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    with pytest.raises(ValueError, match=f'cut{suffix} cannot be read'): read_image(file)


def test_missing_file_says_where_it_was_sought(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.png'): read_image(tmp_path/'nowhere.png')
    with pytest.raises(FileNotFoundError, match='nowhere.png'): load_images([tmp_path/'nowhere.png'])
    with pytest.raises(FileNotFoundError, match='nowhere'): list_images(tmp_path/'nowhere')


# what a file may hold

def write_bomb(path, side=20_000):
    "A valid PNG of a few hundred kilobytes whose 400 million pixels are all black."
    chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    packer = zlib.compressobj(9)
    rows = b''.join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b''))


def test_a_decompression_bomb_is_refused_wherever_files_are_read(tmp_path):
    write_bomb(tmp_path/'bomb.png')
    Image.fromarray(GRAY).save(tmp_path/'image.png')
    assert (tmp_path/'bomb.png').stat().st_size < 1_000_000 and PIXEL_LIMIT == 100_000_000
    image = Sample(tmp_path/'image.png', 'test', 1, 'hole', tmp_path/'bomb.png')
    calls = (lambda: read_image(tmp_path/'bomb.png'), lambda: read_mask(tmp_path/'bomb.png'), lambda: image_size(tmp_path/'bomb.png'),
             lambda: load_images([tmp_path/'bomb.png'], (8, 8)), lambda: load_masks([image]), lambda: as_images(tmp_path/'bomb.png', (8, 8)),
             lambda: as_images(tmp_path, (8, 8)), lambda: read_with_color(tmp_path/'bomb.png'))
    tracemalloc.start()
    for call in calls:
        with pytest.raises(ValueError, match='20000 x 20000 pixels.*the limit is 100000000; RECON_AD_PIXEL_LIMIT'): call()
    problem, = check_dataset(tmp_path).problems
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 'bomb.png: cannot be read: 20000 x 20000 pixels' in problem and most < 50_000_000


def test_the_limit_on_pixels_can_be_set(tmp_path, monkeypatch):
    Image.fromarray(GRAY).save(tmp_path/'image.png')
    monkeypatch.setenv('RECON_AD_PIXEL_LIMIT', str(GRAY.size))
    assert pixel_limit() == GRAY.size and np.array_equal(read_image(tmp_path/'image.png'), GRAY)
    monkeypatch.setenv('RECON_AD_PIXEL_LIMIT', str(GRAY.size - 1))
    with pytest.raises(ValueError, match='the limit is'): read_image(tmp_path/'image.png')
    with pytest.raises(ValueError, match='the limit is'): as_images(Image.fromarray(GRAY), (8, 8))
    for wrong in ('many', '0', '-3', '1.5'):
        monkeypatch.setenv('RECON_AD_PIXEL_LIMIT', wrong)
        with pytest.raises(ValueError, match='whole number of pixels above 0'): pixel_limit()


def test_a_limit_above_that_of_pillow_holds_and_leaves_it_alone(tmp_path, monkeypatch):
    write_bomb(tmp_path/'large.png')
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv('RECON_AD_PIXEL_LIMIT', '400000000')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert image_size(tmp_path/'large.png') == (20_000, 20_000)
        with open_image(tmp_path/'large.png') as image: assert image.size == (20_000, 20_000)
    assert Image.MAX_IMAGE_PIXELS == before


def test_pages_are_named_and_not_cut(tmp_path):
    tifffile.imwrite(tmp_path/'pages.tif', np.stack([GRAY, GRAY, GRAY]), photometric='minisblack')
    tifffile.imwrite(tmp_path/'deep.tif', np.zeros((2, 9, 8), np.uint16), photometric='minisblack')
    tifffile.imwrite(tmp_path/'colour.tif', np.zeros((4, 9, 8, 3), np.uint16), photometric='rgb')
    Image.fromarray(GRAY).save(tmp_path/'moving.png', save_all=True, append_images=[Image.fromarray(GRAY[::-1].copy())])
    for name, pages in (('pages.tif', 3), ('deep.tif', 2), ('colour.tif', 4), ('moving.png', 2)):
        with pytest.raises(ValueError, match=f'{name} cannot be read: {pages} pages; save each as a file of its own'): read_image(tmp_path/name)
    problems = check_dataset(tmp_path).problems
    assert len(problems) == 4 and all('pages; save each' in problem for problem in problems)
    with Image.open(tmp_path/'pages.tif') as image, pytest.raises(ValueError, match='3 pages'): as_images(image, (8, 8))


def test_a_reduced_copy_is_no_page(tmp_path):
    with tifffile.TiffWriter(tmp_path/'thumb.tif') as file:
        file.write(GRAY, photometric='minisblack')
        file.write(GRAY[::4, ::4], photometric='minisblack', subfiletype=1)
    assert np.array_equal(read_image(tmp_path/'thumb.tif'), GRAY)


def test_what_a_phone_appends_to_a_jpeg_is_no_page(tmp_path):
    picture = Image.fromarray(GRAY)
    picture.save(tmp_path/'phone.jpg', format='MPO', save_all=True, append_images=[picture.resize((8, 8))], quality=98)
    with Image.open(tmp_path/'phone.jpg') as image: assert image.n_frames == 2
    assert read_image(tmp_path/'phone.jpg').shape == GRAY.shape


@pytest.mark.parametrize('byteorder', '<>')
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('photometric', ['miniswhite', 'minisblack'])
def test_black_is_zero_whatever_a_tiff_says(tmp_path, photometric, dtype, byteorder):
    white = np.iinfo(dtype).max
    ramp = np.arange(0, 200, dtype=dtype).reshape(10, 20) * (white // 200)
    stored = white - ramp if photometric == 'miniswhite' else ramp
    tifffile.imwrite(tmp_path/'ramp.tif', stored.astype(dtype), photometric=photometric, byteorder=byteorder)
    if photometric == 'miniswhite' and dtype == np.uint16 and byteorder == '>':  # Pillow does not know it
        with pytest.raises(ValueError, match='ramp.tif cannot be read'): read_image(tmp_path/'ramp.tif')
        return
    read = read_image(tmp_path/'ramp.tif')
    assert read.dtype == dtype and np.array_equal(read, ramp)
    if dtype == np.uint8: return
    with Image.open(tmp_path/'ramp.tif') as image: assert np.array_equal(as_images(image, (10, 20))[0], ramp)


def test_deep_cmyk_is_refused_and_not_cut_to_8_bits(tmp_path):
    tifffile.imwrite(tmp_path/'cmyk.tif', np.full((6, 5, 4), 30_000, np.uint16), photometric='separated')
    with pytest.raises(ValueError, match='16 bits a channel in CMYK'): read_image(tmp_path/'cmyk.tif')


def test_32_bits_are_refused_whichever_way_round(tmp_path):
    for photometric in ('miniswhite', 'minisblack'):
        tifffile.imwrite(tmp_path/f'{photometric}.tif', np.full((4, 4), 70_000, np.uint32), photometric=photometric)
        with pytest.raises(ValueError, match='cannot be read'): read_image(tmp_path/f'{photometric}.tif')


@pytest.mark.parametrize('save, shows', [
    (lambda image, path: image.save(path), True),
    (lambda image, path: image.convert('L').save(path), False),
    (lambda image, path: image.convert('L').convert('RGB').save(path), False),
    (lambda image, path: image.convert('P').save(path), True),
    (lambda image, path: image.convert('RGBA').save(path), True),
])
def test_color_is_noticed(tmp_path, save, shows):
    save(Image.fromarray(photographs.astronaut()), tmp_path/'image.png')
    assert read_with_color(tmp_path/'image.png')[1] is shows


def test_deep_color_is_noticed(tmp_path):
    deep = photographs.astronaut().astype(np.uint16) * 257
    tifffile.imwrite(tmp_path/'colour.tif', deep, photometric='rgb')
    tifffile.imwrite(tmp_path/'gray.tif', np.repeat(deep[..., :1], 3, -1), photometric='rgb')
    assert [read_with_color(tmp_path/f'{name}.tif')[1] for name in ('colour', 'gray')] == [True, False]


# the gate

UNIT = (GRAY / np.float32(255))
DEEP = GRAY.astype(np.uint16) * 257
SHAPE = GRAY.shape


@pytest.mark.parametrize('given', [
    GRAY, GRAY[None], GRAY[None, None], torch.from_numpy(GRAY.copy()), torch.from_numpy(GRAY.copy())[None], torch.from_numpy(GRAY.copy())[None, None],
    [GRAY], (GRAY,), [GRAY[None]], [torch.from_numpy(GRAY.copy())], Image.fromarray(GRAY), [Image.fromarray(GRAY)], iter([GRAY]),
    Image.fromarray(GRAY).convert('RGB'), Image.fromarray(GRAY).convert('RGBA'), Image.fromarray(GRAY).convert('LA'), Image.fromarray(GRAY).convert('P'),
], ids=str)
def test_one_image_of_8_bits_passes_the_gate(given):
    images = as_images(given, SHAPE)
    assert isinstance(images, np.ndarray) and images.dtype == np.uint8 and np.array_equal(images, GRAY[None])


@pytest.mark.parametrize('given', [DEEP, DEEP[None], DEEP[None, None], torch.from_numpy(DEEP.copy()), [DEEP], Image.fromarray(DEEP)], ids=lambda given: type(given).__name__)
def test_one_image_of_16_bits_passes_the_gate(given):
    images = as_images(given, SHAPE)
    assert images.dtype == np.uint16 and np.array_equal(images, DEEP[None])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', [SHAPE, (1, *SHAPE), (1, 1, *SHAPE)])
@pytest.mark.parametrize('listed', [False, True])
def test_one_image_in_unit_range_passes_the_gate(dtype, shape, listed):
    one = torch.from_numpy(UNIT).to(dtype).reshape(shape)
    images = as_images([one] if listed else one, SHAPE)
    assert images.dtype == torch.float32 and torch.equal(images, torch.from_numpy(UNIT).to(dtype).float()[None, None])
    if dtype != torch.bfloat16: assert torch.equal(as_images(one.numpy(), SHAPE), images)


def test_several_images_pass_the_gate():
    stack = np.stack([GRAY, GRAY[::-1]])
    assert np.array_equal(as_images(stack, SHAPE), stack) and np.array_equal(as_images(stack[:, None], SHAPE), stack)
    assert np.array_equal(as_images([GRAY, stack, Image.fromarray(GRAY)], SHAPE), np.stack([GRAY, *stack, GRAY]))
    assert np.array_equal(as_images([GRAY, DEEP], SHAPE), np.stack([DEEP, DEEP]))
    mixed = as_images([GRAY, UNIT, DEEP], SHAPE)
    assert mixed.shape == (3, 1, *SHAPE) and (mixed - mixed[:1]).abs().max() < 1e-6  # 1/255 is not exact in float32
    memory = as_images(stack, SHAPE)
    assert memory is stack  # nothing is copied that has its form


def test_files_and_folders_pass_the_gate(tmp_path):
    for name, image in (('a', GRAY), ('b', GRAY[::-1].copy())): Image.fromarray(image).save(tmp_path/f'{name}.png')
    expected = load_images(list_images(tmp_path), (40, 50), 'pad')
    one, two = tmp_path/'a.png', tmp_path/'b.png'
    for given in (tmp_path, str(tmp_path), [tmp_path], [one, str(two)], np.array([str(one), str(two)]), [Sample(path, 'test', 0, 'good') for path in (one, two)],
                  [one, Image.open(two)]):
        assert np.array_equal(as_images(given, (40, 50), 'pad'), expected)
    assert np.array_equal(as_images(one, (40, 50), 'pad'), expected[:1]) and as_rows(tmp_path) == [one, two]
    assert np.array_equal(as_images([one, fit_image(DEEP, (40, 50))], (40, 50)), np.stack([deepen(fit_image(GRAY, (40, 50)), np.dtype(np.uint16)), fit_image(DEEP, (40, 50))]))


def test_a_little_overshoot_of_resizing_is_cut():
    assert as_images(torch.tensor([[-1e-5, 1 + 1e-5]]), (1, 2)).flatten().tolist() == [0, 1]


@pytest.mark.parametrize('given, error, expected', [
    (GRAY.astype(np.float32), ValueError, f'must lie in [0, 1], got {GRAY.min()} to 255; divide by 255, or give uint8'),
    (torch.from_numpy(GRAY.copy()).double(), ValueError, 'divide by 255'),
    (-UNIT, ValueError, 'got -1 to -0.00392157'),
    (np.where(UNIT > 0.5, np.nan, UNIT), ValueError, 'not finite'),
    (np.where(UNIT > 0.5, np.inf, UNIT), ValueError, 'not finite'),
    (torch.full(SHAPE, torch.nan), ValueError, 'not finite'),
    ([GRAY, torch.full(SHAPE, torch.nan)], ValueError, 'not finite'),
    (GRAY > 100, ValueError, 'images of bool; give uint8, uint16'),
    (GRAY.astype(np.int64), ValueError, 'images of int64'),
    (torch.from_numpy(GRAY.astype(np.int32)), ValueError, 'images of int32'),
    (UNIT.astype(complex), ValueError, 'images of complex128'),
    (np.zeros((4, 8, 3), np.uint8), ValueError, 'for color take'),
    (np.zeros((2, 4, 8, 3), np.uint8), ValueError, 'for color take'),
    (np.zeros((2, 3, 4, 8), np.uint8), ValueError, 'for color take'),
    (torch.zeros(2, 3, 4, 8), ValueError, 'for color take'),
    (np.zeros(8, np.uint8), ValueError, 'shape (8) is no image'),
    (np.zeros((1, 1, 1, 4, 8), np.uint8), ValueError, 'is no image'),
    (np.uint8(3), TypeError, 'got uint8'),
    (np.array(3, np.uint8), ValueError, 'shape () is no image'),
    (np.zeros((0, *SHAPE), np.uint8), ValueError, 'at least one image is needed, got none'),
    (torch.zeros(0, 1, *SHAPE), ValueError, 'at least one image is needed'),
    (np.zeros((2, 0, 8), np.uint8), ValueError, 'none of them empty'),
    ([], ValueError, 'at least one image is needed, got none'), ((), ValueError, 'at least one'), (iter([]), ValueError, 'at least one'),
    (GRAY[:-1], ValueError, 'images must be 128 x 256 (height x width), got 127 x 256; give paths to have them resized'),
    ([GRAY, GRAY[:-1]], ValueError, 'got 127 x 256'),
    (None, TypeError, 'got NoneType'), (7, TypeError, 'got int'), (b'a.png', TypeError, 'got bytes'), ({'a': 1}, TypeError, 'got dict'),
    ([None], TypeError, 'not NoneType'), ([[0, 1], [2, 3]], TypeError, 'not list'), ([0.5], TypeError, 'not float'),
    (Image.fromarray(UNIT), ValueError, 'floating-point pixels'),
    ('/nowhere/a.png', FileNotFoundError, 'files are not there'),
])
def test_what_is_no_image_is_refused_in_one_line(given, error, expected):
    with pytest.raises(error) as caught: as_images(given, SHAPE, who='Detector')
    said = str(caught.value)
    assert expected in said and (error is FileNotFoundError or said.startswith('Detector: ') and '\n' not in said)


def test_an_empty_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match='no images .* in the folder') as caught: as_images(tmp_path, SHAPE)
    assert '\n' not in str(caught.value)


def test_an_opened_file_of_deep_color_is_not_cut_to_8_bits(tmp_path):
    tifffile.imwrite(tmp_path/'deep.tif', np.zeros((4, 8, 3), np.uint16), photometric='rgb')
    with Image.open(tmp_path/'deep.tif') as image, pytest.raises(ValueError, match='16-bit color; give its path'): as_images(image, (4, 8))


def test_the_gate_keeps_gradients():
    image = torch.rand(1, 1, 4, 8, requires_grad=True)
    as_images(image, (4, 8)).sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))


# fitting and restoring

@pytest.mark.parametrize('fit', FITS)
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_fit_keeps_size_depth_and_extremes(fit, dtype):
    full = np.full((50, 70), np.iinfo(dtype).max, dtype)
    fitted = fit_image(full, (30, 90), fit)
    assert fitted.shape == (30, 90) and fitted.dtype == dtype and (fitted == np.iinfo(dtype).max).all()


def test_shrinking_averages_as_scikit_image_does():
    image = photographs.brick()
    ours = fit_image(image, (128, 128))
    theirs = resize(image, (128, 128), order=1, anti_aliasing=True, preserve_range=True)
    aliased = resize(image, (128, 128), order=0, anti_aliasing=False, preserve_range=True)
    assert np.abs(ours - theirs).mean() < 2.5 < np.abs(aliased - theirs).mean()
    assert np.abs(fit_image(image.astype(np.uint16) * 257, (128, 128)) / 257 - ours).max() <= 0.51  # both depths alike


def test_one_pixel_scratch_survives_shrinking():
    for row in range(8):
        image = np.zeros((64, 64), np.uint8)
        image[row] = 255
        assert fit_image(image, (16, 16)).max() > 20


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(8, 90), st.integers(8, 90)), st.tuples(st.integers(8, 90), st.integers(8, 90)), st.sampled_from(FITS))
def test_restored_map_has_the_original_size_and_invents_nothing(original, size, fit):
    values = np.random.default_rng(0).random(size, dtype=np.float32)
    restored = restore_map(values, original, fit)
    assert restored.shape == original and restored.dtype == np.float32
    assert restored.max() <= values.max() + 1e-5 and restored.min() >= (min(0, values.min()) if fit == 'crop' else values.min()) - 1e-5
    assert fit_image(np.zeros(original, np.uint8), size, fit).shape == size
    assert fit_mask(np.ones(original, bool), size, fit).any()


@pytest.mark.parametrize('fit', FITS)
@pytest.mark.parametrize('original', [(176, 976), (400, 400), (352, 976), (100, 1500), (177, 977)])
def test_a_spot_returns_to_where_it_was(fit, original):
    rows, columns = np.mgrid[:original[0], :original[1]]
    row, column = original[0] // 2 + 8, original[1] // 2 - 30
    image = np.round(255 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 150)).astype(np.uint8)
    back = restore_map(fit_image(image, (176, 976), fit) / np.float32(255), original, fit)
    found = np.unravel_index(back.argmax(), back.shape)
    assert np.hypot(found[0] - row, found[1] - column) <= 3


def test_equal_size_passes_untouched():
    image = np.random.default_rng(0).integers(0, 65536, (17, 23), dtype=np.uint16)
    values = np.random.default_rng(0).standard_normal((17, 23)).astype(np.float32)
    for fit in FITS:
        assert np.array_equal(fit_image(image, (17, 23), fit), image)
        assert np.array_equal(restore_map(torch.from_numpy(values), (17, 23), fit), values)


def test_what_crop_cut_away_is_the_lowest_or_what_was_asked_for():
    inside = np.full((50, 50), 2.0, np.float32)
    assert restore_map(inside, (50, 100), 'crop')[:, [0, 99]].max() == 0
    assert restore_map(-inside, (50, 100), 'crop')[:, [0, 99]].max() == -2
    assert restore_map(inside, (50, 100), 'crop', outside=7.0)[:, [0, 99]].min() == 7


def test_wrong_fit_lists_the_right_ones():
    for call in (lambda: fit_image(GRAY, (8, 8), 'squash'), lambda: restore_map(np.zeros((8, 8), np.float32), (9, 9), 'squash')):
        with pytest.raises(ValueError, match="stretch, pad, crop, got 'squash'"): call()


# arrays

def test_load_images_keeps_order_and_depth(tmp_path):
    files = []
    for value in (3, 1, 2):
        files.append(tmp_path/f'{value}.png')
        Image.fromarray(np.full((5, 6), value, np.uint8)).save(files[-1])
    array = load_images(files, size=(4, 4))
    assert array.dtype == np.uint8 and array[:, 0, 0].tolist() == [3, 1, 2]


def test_mixed_depths_keep_black_and_white_and_are_reported(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path/'8.png')
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path/'16.png')
    with pytest.warns(UserWarning, match='1 of 2 images have 16 bits'): array = load_images(list_images(tmp_path), size=(1, 2))
    assert array.dtype == np.uint16 and array.tolist() == [[[0, 65535]]] * 2


@pytest.mark.parametrize('cached', [False, True])
def test_a_large_array_is_mapped_and_equal(tmp_path, cached):
    Image.fromarray(GRAY).save(tmp_path/'image.png')
    mapped = load_images([tmp_path/'image.png'] * 5, (40, 50), memory_share=0.0, cache=tmp_path/'cache' if cached else None)
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, load_images([tmp_path/'image.png'] * 5, (40, 50)))
    file = mapped.filename
    assert os.path.exists(file)
    del mapped
    assert os.path.exists(file) == cached


def test_the_cache_notices_change(tmp_path):
    file, cache = tmp_path/'image.png', tmp_path/'cache'
    Image.fromarray(GRAY).save(file)
    first = load_images([file], (8, 8), cache=cache)
    assert np.array_equal(load_images([file], (8, 8), cache=cache), first) and len(list(cache.iterdir())) == 1
    load_images([file], (8, 9), cache=cache), load_images([file], (8, 8), fit='pad', cache=cache)
    assert len(list(cache.iterdir())) == 3
    Image.fromarray(255 - GRAY).save(file)
    assert np.array_equal(load_images([file], (8, 8), cache=cache)[0], fit_image(255 - GRAY, (8, 8)))


def test_a_failed_load_leaves_nothing_behind(tmp_path):
    (tmp_path/'bad.png').write_text('not an image')
    with pytest.raises(ValueError, match='bad.png'): load_images([tmp_path/'bad.png'], (8, 8), cache=tmp_path/'cache')
    assert list((tmp_path/'cache').iterdir()) == []


def test_to_float_refuses_other_depths():
    with pytest.raises(ValueError, match='must be uint8 or uint16, got uint32'): to_float(np.zeros((1, 2, 2), np.uint32))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 500), st.floats(0.001, 0.999), st.integers(0, 2**31))
def test_hold_out_divides(count, share, seed):
    kept, held = hold_out(count, share, seed)
    assert sorted([*kept, *held]) == list(range(count)) and len(kept) and len(held)
    assert all(np.array_equal(*pair) for pair in zip((kept, held), hold_out(list(range(count)), share, seed)))


@pytest.mark.parametrize('count, share', [(1, 0.5), (10, 0.0), (10, 1.0)])
def test_hold_out_refuses(count, share):
    with pytest.raises(ValueError, match='hold_out'): hold_out(count, share, 0)


# folders

@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.PNG'])
@pytest.mark.parametrize('mask_ending', ['_mask', ''])
def test_a_sound_folder_is_understood(tmp_path, suffix, mask_ending):
    samples = list_samples(write_set(tmp_path/'set', suffix, mask_ending))
    assert [(sample.split, sample.label, sample.defect) for sample in samples] == (
        [('train', 0, 'good')] * 4 + [('test', 0, 'good')] * 2 + [('test', 1, 'hole')] * 2)
    assert [int(mask.sum()) for mask in load_masks(samples)] == [0] * 6 + [200] * 2
    assert not check_dataset(tmp_path/'set').notes


def test_everything_wrong_is_named_at_once(tmp_path):
    root = write_set(tmp_path/'set')
    whole = (root/'train/good/000.png').read_bytes()
    (root/'train/good/000.png').write_bytes(whole[:len(whole) // 2])
    (root/'train/good/empty.png').write_bytes(b'')
    shutil.copy(root/'train/good/001.png', root/'test/good/leak.png')
    Image.open(root/'train/good/002.png').save(root/'test/good/leak_again.bmp')  # other bytes, same picture
    shutil.copy(root/'test/good/004.png', root/'test/hole/both.png')
    Image.new('L', (9, 9), 255).save(root/'ground_truth/hole/006_mask.png')
    Image.new('L', GRAY.shape[::-1], 0).save(root/'ground_truth/hole/007_mask.png')
    Image.new('L', (9, 9), 255).save(root/'ground_truth/hole/nobody_mask.png')
    problems = '\n'.join(check_dataset(root).problems)
    for expected in ('train/good/000.png: cannot be read: ', 'train/good/empty.png: cannot be read: ',
                     'test/good/leak.png: the same picture as train/good/001.png', 'test/good/leak_again.bmp: the same picture as train/good/002.png',
                     'test/hole/both.png: the same picture as test/good/004.png', 'test/hole/both.png: no mask',
                     '006_mask.png is 9 x 9, the image 128 x 256', '007_mask.png is empty',
                     'ground_truth/hole/nobody_mask.png: a mask without an image'): assert expected in problems
    with pytest.raises(DatasetError) as error: list_samples(root)
    assert '2 test images that are trained on: test/good/leak.png, test/good/leak_again.bmp' in str(error.value)
    assert '\n'.join(error.value.report.problems) == problems
    with pytest.warns(UserWarning, match='images left out'): left = list_samples(root, skip_broken=True)
    assert [sample.path.name for sample in left] == ['001.png', '002.png', '003.png', '004.png', '005.png']


@pytest.mark.parametrize('make, expected', [
    (lambda root: None, 'there is no such folder'),
    (lambda root: root.mkdir(), 'there is no folder train/good'),
    (lambda root: (root/'train/good').mkdir(parents=True), 'train/good holds no image'),
    (lambda root: [write_set(root/name) for name in ('bottle', 'pill')], '2 sets one level down: bottle, pill'),
])
def test_nothing_to_train_on(tmp_path, make, expected):
    make(tmp_path/'set')
    assert expected in check_dataset(tmp_path/'set').problems[0]
    for skip_broken in (False, True):
        with pytest.raises(DatasetError, match=expected): list_samples(tmp_path/'set', skip_broken=skip_broken)


def test_only_broken_training_images_cannot_be_skipped(tmp_path):
    root = write_set(tmp_path/'set')
    for file in (root/'train/good').iterdir(): file.write_bytes(b'')
    with pytest.raises(DatasetError): list_samples(root, skip_broken=True)


@pytest.mark.parametrize('change, expected', [
    (lambda root: shutil.rmtree(root/'test'), 'test: no images'),
    (lambda root: shutil.rmtree(root/'test/good'), 'test: only defective images'),
    (lambda root: (shutil.rmtree(root/'test/hole'), shutil.rmtree(root/'ground_truth')), 'test: only good images'),
    (lambda root: shutil.rmtree(root/'ground_truth'), 'ground_truth: no masks'),
    (lambda root: (root/'train/good/Thumbs.db').write_text(''), 'train/good: 1 entries that are no images passed over (Thumbs.db)'),
    (lambda root: shutil.copytree(root/'test/hole', root/'train/hole'), 'train/hole: passed over (2 images)'),
    (lambda root: shutil.copy(root/'train/good/000.png', root/'train/good/twin.png'), 'train/good/twin.png: the same picture as train/good/000.png'),
    (lambda root: Image.fromarray(GRAY[:50]).save(root/'train/good/other.png'), 'images of 2 sizes'),
    (lambda root: Image.fromarray(GRAY.astype(np.uint16) * 16).save(root/'train/good/deep.png'), 'images of 8 and 1 of 16 bits'),
    (lambda root: Image.fromarray(GRAY.astype(np.uint16) * 16).save(root/'train/good/deep.png'), '16-bit files use 12 bits only'),
])
def test_notes_do_not_stop_training(tmp_path, change, expected):
    root = write_set(tmp_path/'set')
    change(root)
    report = check_dataset(root)
    if (root/'test').is_dir(): assert report.problems == []
    assert any(expected in note for note in report.notes), report.notes
    assert expected in str(report)


def test_hidden_files_are_no_images(tmp_path):
    root = write_set(tmp_path/'set')
    (root/'train/good/._000.png').write_bytes(b'a file that macOS leaves behind')
    (root/'.DS_Store').write_bytes(b'')
    assert not check_dataset(root).problems and len(list_samples(root)) == 8


def test_masks_of_any_convention(tmp_path):
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path/'ones.png')
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path/'white.png')
    Image.fromarray(mask).save(tmp_path/'bits.png')
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path/'lossy.jpg', quality=60)
    for file in list_images(tmp_path): assert np.array_equal(read_mask(file), mask), file


def test_masks_are_asked_for_before_they_are_missed(tmp_path):
    root = write_set(tmp_path/'set')
    shutil.rmtree(root/'ground_truth')
    with pytest.raises(ValueError, match='2 defective images have no mask'): load_masks(list_samples(root))


@pytest.mark.skipif('RECON_AD_DATA' not in os.environ, reason='RECON_AD_DATA names no folder of real images')
@pytest.mark.parametrize('name', ['mvtec/grid', 'mvtec/bottle', 'mvtec/pill', 'mvtec/transistor', 'kolektor_strips'])
def test_real_sets_are_sound(name):
    report = check_dataset(os.path.join(os.environ['RECON_AD_DATA'], name))
    assert not report.problems and len(report.samples) > 200


def test_no_plotting_and_no_jupyter_is_imported():
    code = ('import sys, recon_ad, recon_ad.data, recon_ad.strips; '
            'print([name for name in ("matplotlib", "seaborn", "IPython", "ipywidgets", "jupyter_core", "pandas") if name in sys.modules])')
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


# layouts other than MVTec AD

def write_pictures(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers: Image.fromarray(np.roll(GRAY, 7 * number, 1)).save(folder/f'{number:03}.png')


def understood(root):
    report = check_dataset(root)
    assert not report.problems and not report.fatal
    return [(sample.split, sample.label, sample.defect, sample.path.relative_to(root).as_posix()) for sample in list_samples(root)]


def test_a_flat_folder_is_all_normal(tmp_path):
    write_pictures(tmp_path, range(3))
    assert understood(tmp_path) == [('train', 0, 'good', f'{number:03}.png') for number in range(3)]
    assert any('all are taken as normal' in note for note in check_dataset(tmp_path).notes)


def test_good_and_bad(tmp_path):
    write_pictures(tmp_path/'good', range(3))
    write_pictures(tmp_path/'bad', [5])
    assert understood(tmp_path)[2:] == [('train', 0, 'good', 'good/002.png'), ('test', 1, 'bad', 'bad/005.png')]


def test_subfolders_with_equal_names_and_their_masks(tmp_path):
    write_pictures(tmp_path/'train/good/cam1', [0])
    write_pictures(tmp_path/'train/good/cam2', [1])
    mask = np.zeros(GRAY.shape, np.uint8)
    mask[10:20] = 255
    for row, camera in enumerate(('cam1', 'cam2')):
        (tmp_path/f'test/crack/{camera}').mkdir(parents=True)
        (tmp_path/f'ground_truth/crack/{camera}').mkdir(parents=True)
        Image.fromarray(np.roll(GRAY, 50 + row, 1)).save(tmp_path/f'test/crack/{camera}/000.png')
        Image.fromarray(mask).save(tmp_path/f'ground_truth/crack/{camera}/000_mask.png')
    assert [row[3] for row in understood(tmp_path)][:2] == ['train/good/cam1/000.png', 'train/good/cam2/001.png']
    cracks = [sample for sample in list_samples(tmp_path) if sample.label]
    assert [sample.mask.parent.name for sample in cracks] == ['cam1', 'cam2']


def test_an_empty_folder_is_still_refused(tmp_path):
    with pytest.raises(DatasetError, match='there is no folder train/good'): list_samples(tmp_path)


# large pictures

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', '1', 'LA', 'L', 'I;16'])
@pytest.mark.parametrize('turned', [1, 6])
def test_bands_give_what_one_read_gives(tmp_path, monkeypatch, mode, turned):
    picture = Image.fromarray(GRAY.astype(np.uint16) * 257) if mode == 'I;16' else Image.fromarray(photographs.astronaut()).convert(mode)
    exif = Image.Exif()
    exif[274] = turned
    picture.save(tmp_path/'a.png', exif=exif)
    whole = read_image(tmp_path/'a.png')
    monkeypatch.setattr('recon_ad.data._BAND', 7 * 512)
    assert np.array_equal(read_image(tmp_path/'a.png'), whole)
    assert np.array_equal(fit_image(whole, (50, 60)), fit_image(read_image(tmp_path/'a.png'), (50, 60)))


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_bands_of_deep_color_give_what_one_read_gives(tmp_path, monkeypatch, suffix):
    colour = np.random.default_rng(0).integers(0, 65536, (37, 41, 3)).astype(np.uint16)
    if suffix == '.tif': tifffile.imwrite(tmp_path/'a.tif', colour, photometric='rgb')
    else:
        rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in colour)
        chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        header = struct.pack('>IIBBBBB', 41, 37, 16, 2, 0, 0, 0)
        (tmp_path/'a.png').write_bytes(
            b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
        )
    monkeypatch.setattr('recon_ad.data._BAND', 100)
    wanted = np.round(colour.astype(np.float64) @ np.array([0.299, 0.587, 0.114])).astype(np.uint16)
    assert np.array_equal(read_image(tmp_path/f'a{suffix}'), wanted)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_one_line_of_pixels_is_resized_like_every_line(height, width, rows, columns):
    "PyTorch takes a single column for channels: as many equal columns must give the same."
    line = np.random.default_rng(height).integers(0, 65536, (height, 1)).astype(np.uint16)
    tall, wide = fit_image(line, (rows, 1)), fit_image(line.repeat(width, 1), (rows, columns + 1))
    assert (np.abs(wide.astype(int) - tall.astype(int)) <= 1).all()        # rounded once more
    assert np.array_equal(fit_image(line.T, (1, rows)), tall.T)


def test_large_pictures_wait_for_each_other_and_small_ones_do_not():
    assert one_at_a_time((10_000, 10_000)).acquire(blocking=False)
    one_at_a_time((10_000, 10_000)).release()
    with one_at_a_time((100, 100)), one_at_a_time((10_000, 10_000)), one_at_a_time((5_000, 5_000)): pass


# what training has shown

def test_a_files_look_is_told_from_its_header(tmp_path):
    Image.fromarray(GRAY).save(tmp_path/'a.png')
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(tmp_path/'b.png')
    files = [tmp_path/'a.png', Sample(tmp_path/'b.png', 'train', 0, 'good')]
    one, other = looks_of(load_images([tmp_path/'a.png'] * 2, (32, 64)), files)
    assert (one.size, one.bits, other.bits) == (GRAY.shape, 8, 16)
    alone = look_at(tmp_path/'a.png', size=(32, 64))
    assert alone == one and look_at(GRAY, size=(32, 64)) == one


@given(st.floats(0.02, 0.98), st.floats(0.0, 0.5))
@settings(max_examples=40, deadline=None)
def test_gray_is_held_against_the_limits_it_names(mean, contrast):
    shown = Shown(mean=(0.4, 0.5), contrast=(0.1, 0.2))
    said = unlike_training(shown, Look(None, None, mean, contrast), (10, 10), 'stretch')
    assert any('mean gray' in reason for reason in said) == (not 0.4 - 0.1 <= mean <= 0.5 + 0.1)
    assert any('contrast' in reason for reason in said) == (not 0.1 / 2 <= contrast <= 0.2 * 2)


@pytest.mark.parametrize('resize, size, odd', [
    ('stretch', (105, 200), False), ('stretch', (120, 200), True), ('crop', (120, 200), True), ('pad', (120, 200), False),
    ('stretch', (40, 80), True), ('stretch', (60, 120), False), ('tiles', (120, 200), False), ('tiles', (100, 300), True),
])
def test_proportions_and_size_are_held_against_a_picture(resize, size, odd):
    shown = Shown(proportions=(0.5, 0.5), height=(100, 100), width=(200, 200))
    assert bool(unlike_training(shown, Look(size, 8, 0.5, 0.1), (64, 96), resize)) is odd


def test_nothing_is_held_against_a_picture_where_nothing_is_known():
    assert unlike_training(sum_up([]), Look((1, 9999), 16, 1.0, 0.0), (64, 96), 'stretch') == []


@pytest.mark.parametrize('shape', [(64, 96), (300, 512), (1, 100_000)])
def test_brightness_does_not_depend_on_the_form(shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    ours = np.stack(brightness(images))
    assert np.allclose(ours, np.stack(brightness(to_float(images))), atol=1e-6)
    exact = np.stack((images.mean((1, 2)), images.std((1, 2)))) / 255
    assert np.abs(ours - exact).max() < 0.01                                # a part of the pixels is looked at

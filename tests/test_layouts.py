"The room of layouts: which folders are understood, which are refused, and that check and train agree."
import argparse
import pickle
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from recon_ad import data, layouts
from recon_ad.cli import check, main
from recon_ad.data import Sample, load_masks
from recon_ad.detector import Detector, evaluate_detector
from recon_ad.layouts import (
    DatasetError, Finding, check_dataset, contact_sheet, draw_test, grouped, is_list, list_samples, read_table, reduction,
    too_alike, understand,
)

SIZE = (64, 96)
MASK = np.zeros(SIZE, np.uint8)
MASK[40:48, 10:22] = 255


def plate(number, spot=False, colour=False):
    "Noise with a bright square, another one for each number; perhaps with a dark spot, perhaps red on one side."
    generator = np.random.default_rng(number)
    image = generator.normal(90, 4, SIZE)
    top, left = generator.integers(8, 16, 2)
    image[top:top + 24, left:left + 32] += 100
    if spot: image[MASK > 0] = 10
    image = image.clip(0, 255).astype(np.uint8)
    if not colour: return Image.fromarray(image)
    return Image.fromarray(np.stack([image, image // 2, image // 2], -1))


def write(path, number, spot=False, colour=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    plate(number, spot, colour).save(path)


def write_mask(path, marked=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(MASK * marked).save(path)


def write_many(folder, numbers, suffix='.png', spot=False):
    for number in numbers: write(folder/f'{number:03}{suffix}', number, spot)


# a set of each layout: 24 normal images, 3 defective ones where there are any

def make_mvtec(root, cameras=False, masks=True):
    for number in range(20): write(root/'train/good'/(f'cam{number % 2}' if cameras else '')/f'{number:03}.png', number)
    write_many(root/'test/good', range(20, 24))
    write_many(root/'test/hole', range(30, 33), spot=True)
    for number in range(30, 33) if masks else (): write_mask(root/f'ground_truth/hole/{number:03}_mask.png')
    return root


def make_flat(root):
    write_many(root, range(24))
    return root


def make_sides(root, normal='good', bad='bad', masks=None, place=''):
    write_many(root/normal, range(24))
    write_many(root/bad/place, range(30, 33), spot=True)
    for number in range(30, 33) if masks else (): write_mask(root/masks/f'{number:03}_mask.png')
    return root


def make_visa(root, split=None):
    category = root/'candle'
    write_many(category/'Data/Images/Normal', range(24), '.JPG')
    write_many(category/'Data/Images/Anomaly', range(3), '.JPG', spot=True)
    rows, parts = ['image,label,mask'], ['object,split,label,image,mask']
    for number in range(3):
        write_mask(category/f'Data/Masks/Anomaly/{number:03}.png')
        image, mask = (f'candle/Data/{kind}/Anomaly/{number:03}' for kind in ('Images', 'Masks'))
        rows.append(f'{image}.JPG,"bent,scratch",{mask}.png')
        parts.append(f'candle,test,anomaly,{image}.JPG,{mask}.png')
    for number in range(24):
        rows.append(f'candle/Data/Images/Normal/{number:03}.JPG,normal,')
        parts.append(f'candle,{"train" if number < 18 else "test"},normal,candle/Data/Images/Normal/{number:03}.JPG,')
    (category/'image_anno.csv').write_text('\n'.join(rows) + '\n')
    if split is not None:
        (root/split).mkdir(exist_ok=True)
        (root/split/'1cls.csv').write_text('\n'.join(parts) + '\n')
    return category


def make_kolektor(root):
    for number in range(27):
        folder, spot = root/f'kos{number // 3:02}', number in (2, 13, 25)
        write(folder/f'Part{number % 3}.jpg', number, spot)
        write_mask(folder/f'Part{number % 3}_label.bmp', spot)
    return root


def make_list(root, split=False, separator=',', masks=True):
    make_sides(root/'images', masks='ground_truth/bad')
    rows = [['path', 'label', *(['mask'] if masks else []), *(['split'] if split else [])]]
    for number in range(24):
        row = [f'images/good/{number:03}.png', 'good', *([''] if masks else [])]
        rows.append(row + (['train' if number < 18 else 'test'] if split else []))
    for number in range(30, 33):
        row = [f'images/bad/{number:03}.png', 'hole', *([f'images/ground_truth/bad/{number:03}_mask.png'] if masks else [])]
        rows.append(row + (['test'] if split else []))
    (root/'parts.csv').write_text('\n'.join(separator.join(row) for row in rows))
    return root/'parts.csv'


SETS = {  # name: how it is made, what it is called, images in training, normal and defective in the test, masks, kind
    'mvtec': (make_mvtec, 'MVTec AD', (20, 4, 3), 3, 'hole'),
    'mvtec with subfolders': (lambda root: make_mvtec(root, cameras=True), 'MVTec AD', (20, 4, 3), 3, 'hole'),
    'mvtec without masks': (lambda root: make_mvtec(root, masks=False), 'MVTec AD', (20, 4, 3), 0, 'hole'),
    'flat': (make_flat, 'pictures alone', (24, 0, 0), 0, ''),
    'good and bad': (make_sides, 'good/ and bad/', (19, 5, 3), 0, 'bad'),
    'normal and defective': (lambda root: make_sides(root, 'normal', 'defective'), 'normal/ and defective/', (19, 5, 3), 0, 'defective'),
    'OK and NG': (lambda root: make_sides(root, 'OK', 'NG', 'ground_truth/NG'), 'OK/ and NG/', (19, 5, 3), 3, 'ng'),
    'kinds of defects': (lambda root: make_sides(root, masks='masks/hole', place='hole'), 'good/ and bad/', (19, 5, 3), 3, 'hole'),
    'visa': (make_visa, 'VisA', (19, 5, 3), 3, 'bent + scratch'),
    'visa, divided': (lambda root: make_visa(root, 'split_csv'), 'VisA, divided by 1cls.csv', (18, 6, 3), 3, 'bent + scratch'),
    'visa, divided beside': (lambda root: make_visa(root, ''), 'VisA, divided by 1cls.csv', (18, 6, 3), 3, 'bent + scratch'),
    'kolektor': (make_kolektor, 'KolektorSDD', None, 3, 'defect'),
    'list': (make_list, 'the list parts.csv', (19, 5, 3), 3, 'hole'),
    'list, divided': (lambda root: make_list(root, split=True), 'the list parts.csv', (18, 6, 3), 3, 'hole'),
    'list with semicolons': (lambda root: make_list(root, separator=';'), 'the list parts.csv', (19, 5, 3), 3, 'hole'),
    'list without masks': (lambda root: make_list(root, masks=False), 'the list parts.csv', (19, 5, 3), 0, 'hole'),
    'folder of a list': (lambda root: make_list(root).parent, 'the list parts.csv', (19, 5, 3), 3, 'hole'),
}


@pytest.mark.parametrize('name', SETS)
def test_a_layout_is_understood_and_named(tmp_path, name):
    make, said, counts, masks, kind = SETS[name]
    root = make(tmp_path/'set')
    report = check_dataset(root)
    assert not report.problems and not report.fatal and report.layout.startswith(said)
    assert f'understood as {said}' in str(report)
    samples = list_samples(root)
    assert samples == report.samples and len({sample.path for sample in samples}) == len(samples)
    assert [sample.split for sample in samples] == sorted((sample.split for sample in samples), key='train test'.split().index)
    found = Counter((sample.split, sample.label) for sample in samples)
    assert set(found) <= {('train', 0), ('test', 0), ('test', 1)}
    if counts: assert tuple(found[key] for key in (('train', 0), ('test', 0), ('test', 1))) == counts
    assert all(np.asarray(Image.open(sample.path).convert('L'))[44, 15] < 40 for sample in samples if sample.label)
    assert all(np.asarray(Image.open(sample.path).convert('L'))[44, 15] > 60 for sample in samples if not sample.label)
    assert {sample.defect for sample in samples} == {'good', kind} - {''}
    assert sum(sample.mask is not None for sample in samples) == masks
    if masks:
        for sample, mask in zip(samples, load_masks(samples)): assert np.array_equal(mask, (MASK > 0) & bool(sample.label))


@pytest.mark.parametrize('name', SETS)
def test_what_check_approves_train_accepts(tmp_path, capsys, name):
    root = SETS[name][0](tmp_path/'set')
    assert main(['check', str(root), '--size', '64x96']) == 0
    words = '--size 64x96 --steps 1 --batch-size 2 --device cpu --quiet --threads 1 --architecture autoencoder --damage none'
    capsys.readouterr()
    assert main(['train', str(root), str(tmp_path/'a.safetensors'), *words.split()]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    samples = list_samples(root)
    measured = len({sample.label for sample in samples if sample.split == 'test'}) == 2
    assert ('image_auroc' in said) == measured
    assert ('there are no masks' in said) == (measured and not any(sample.mask for sample in samples))


@pytest.mark.parametrize('size', ['2x2', '31x64', '32x32', '33x47'])
def test_check_and_train_agree_on_sizes(tmp_path, capsys, size):
    root = make_flat(tmp_path/'set')
    words = f'--size {size} --steps 1 --batch-size 2 --device cpu --quiet --threads 1 --architecture autoencoder --damage none'
    codes = main(['check', str(root), '--size', size]), main(['train', str(root), str(tmp_path/'a.safetensors'), *words.split()])
    assert codes == ((0, 0) if size in ('32x32', '33x47') else (1, 1))
    if codes[0]: assert '--size: height and width must be at least 32 pixels' in capsys.readouterr().out


def no_normal(root): write_many(root/'bad', range(3))


def two_customs(root): make_mvtec(root), write_many(root/'good', range(50, 53))


def flat_and_list(root):
    make_flat(root)
    (root/'labels.csv').write_text('path,label\n000.png,good\n')


def flat_with_masks(root):
    make_flat(root)
    write_mask(root/'003_mask.png')


def unknown_neighbour(root):
    make_sides(root)
    write_many(root/'crack', range(40, 43))


def two_lists(root):
    make_list(root)
    shutil.copy(root/'parts.csv', root/'more.csv')


REFUSED = {
    'no normal images': (no_normal, ('no folder train/good', 'seen: bad/ (3 images)', 'put normal images into good/')),
    'two customs': (two_customs, ('MVTec AD and as normal and defective', 'train/ (20 images)', 'take one of them away')),
    'two normal folders': (lambda root: [write_many(root/name, range(3)) for name in ('good', 'ok')], ('good/ and ok/ both look normal',)),
    'two normal folders in train': (lambda root: [write_many(root/'train'/name, range(3)) for name in ('good', 'normal')],
                                    ('train/good and train/normal both look normal',)),
    'loose images in train': (lambda root: write_many(root/'train', range(3)), ('no folder train/good', 'train holds 3 images')),
    'cameras': (lambda root: [write_many(root/name, range(3)) for name in ('cam1', 'cam2')], ('seen: cam1/ (3 images), cam2/ (3 images)', 'good/')),
    'images beside folders': (lambda root: (make_flat(root), write_many(root/'cam1', range(3))), ('24 images lie beside cam1/ (3 images)', 'put the normal ones into good/')),
    'an unknown neighbour': (unknown_neighbour, ('crack/ (3 images)', 'bad/crack')),
    'images and a list': (flat_and_list, ('list and as pictures alone', 'give labels.csv itself')),
    'two lists': (two_lists, ('several lists', 'give more.csv itself')),
    'images and masks in one folder': (flat_with_masks, ('1 of 25 images look like masks', '003_mask.png')),
    'test without train': (lambda root: write_many(root/'test/good', range(3)), ('put normal images for training into train/good',)),
    'several sets': (lambda root: [make_mvtec(root/name) for name in ('bottle', 'pill')], ('2 sets one level down: bottle, pill',)),
    'categories of visa': (lambda root: make_visa(root, 'split_csv'), ('1 sets one level down: candle',)),
    'only defects in visa': (lambda root: write_many(root/'Data/Images/Anomaly', range(3)), ('no normal images for training',)),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_in_one_line(tmp_path, name):
    make, expected = REFUSED[name]
    (tmp_path/'set').mkdir()
    make(tmp_path/'set')
    report = check_dataset(tmp_path/'set')
    assert report.fatal and '\n' not in report.problems[0]
    for part in expected: assert part in report.problems[0]
    for skip_broken in (False, True):
        with pytest.raises(DatasetError): list_samples(tmp_path/'set', skip_broken)
    assert main(['check', str(tmp_path/'set')]) == 1


def test_a_file_that_is_no_list_is_refused(tmp_path):
    write(tmp_path/'one.png', 0)
    (tmp_path/'other.csv').write_text('name,size\na,3\n')
    for name in ('one.png', 'other.csv'):
        assert 'give a folder, or a CSV list with the columns path and label' in check_dataset(tmp_path/name).problems[0]
        assert not is_list(tmp_path/name)


def test_images_beside_good_are_passed_over_and_said(tmp_path):
    write(make_sides(tmp_path/'set')/'overview.png', 99)
    report = check_dataset(tmp_path/'set')
    assert not report.problems and '1 images beside good/ and bad/ passed over' in report.notes


def test_folders_beside_train_are_passed_over_and_said(tmp_path):
    write_many(make_mvtec(tmp_path/'set')/'extra', range(50, 53))
    assert 'extra/ (3 images): passed over' in check_dataset(tmp_path/'set').notes


def test_folders_of_both_sides_are_cameras_and_no_kinds(tmp_path):
    write_many(tmp_path/'good/cam1', range(12))
    write_many(tmp_path/'bad/cam1', range(30, 32))
    assert {sample.defect for sample in list_samples(tmp_path)} == {'good', 'bad'}


# lists

@pytest.mark.parametrize('row, expected', [
    ('images/good/000.png,,', "label '' is neither"),
    ('images/good/000.png,2,', "label '2' is neither"),
    ('images/good/nowhere.png,good,', 'nowhere.png: listed, and not there'),
    ('images/bad/030.png,hole,nowhere.png', 'its mask nowhere.png is not there'),
    ('images/good/000.png,good,', 'images/good/000.png: listed more than once'),
])
def test_a_wrong_row_is_a_problem_with_a_name(tmp_path, row, expected):
    path = make_list(tmp_path/'set')
    path.write_text(path.read_text() + f'\n{row}')
    problems = check_dataset(path).problems
    assert len(problems) == 1 and expected in '\n'.join(problems)


@pytest.mark.parametrize('split, expected', [('validation', "split must be train or test, got 'validation'"), ('', 'some rows have a split')])
def test_a_wrong_split_is_a_problem(tmp_path, split, expected):
    path = make_list(tmp_path/'set', split=True)
    path.write_text(path.read_text().replace('000.png,good,,train', f'000.png,good,,{split}'))
    assert expected in check_dataset(path).problems[0]


def test_a_defect_is_not_trained_on(tmp_path):
    path = make_list(tmp_path/'set', split=True)
    path.write_text(path.read_text().replace('_mask.png,test', '_mask.png,train', 1))
    assert 'images/bad/030.png: defective, and listed for training' in check_dataset(path).problems
    with pytest.warns(UserWarning): assert not [one for one in list_samples(path, skip_broken=True) if one.label and one.split == 'train']


@pytest.mark.parametrize('word, label, kind', [
    ('good', 0, 'good'), ('OK', 0, 'good'), ('Normal', 0, 'good'), ('0', 0, 'good'), ('1', 1, 'defective'), ('Crack', 1, 'crack'), ('bad', 1, 'bad')])
def test_words_for_labels(tmp_path, word, label, kind):
    make_flat(tmp_path)
    (tmp_path/'parts.csv').write_bytes(f'\ufeffPath , LABEL\r\n000.png,{word}\r\n001.png,good\r\n'.encode())
    one = next(sample for sample in list_samples(tmp_path/'parts.csv') if sample.path.name == '000.png')
    assert (one.label, one.defect) == (label, kind)


def test_a_list_may_name_files_elsewhere(tmp_path):
    make_flat(tmp_path/'images')
    (tmp_path/'lists').mkdir()
    here = tmp_path/'images'
    (tmp_path/'lists/a.csv').write_text(f'path,label\n../images/000.png,good\n{here/"001.png"},good\n')
    report = check_dataset(tmp_path/'lists/a.csv')
    assert not report.problems and [sample.path.resolve().name for sample in report.samples] == ['001.png', '000.png'] or len(report.samples) == 2


def test_a_table_is_stripped(tmp_path):
    (tmp_path/'a.csv').write_text('A;b\n 1 ; x y\n;\n2\n')
    assert read_table(tmp_path/'a.csv') == [{'a': '1', 'b': 'x y'}, {'a': '2', 'b': ''}]


# KolektorSDD

def test_an_image_without_label_file_is_named_and_left_out(tmp_path):
    root = make_kolektor(tmp_path/'set')
    (root/'kos03/Part0_label.bmp').unlink()
    assert check_dataset(root).problems == ['kos03/Part0.jpg: no label file beside it']
    with pytest.warns(UserWarning, match='no label file'): samples = list_samples(root, skip_broken=True)
    assert len(samples) == 26


def test_a_label_file_that_cannot_be_read_says_nothing_about_its_image(tmp_path):
    root = make_kolektor(tmp_path/'set')
    (root/'kos03/Part0_label.bmp').write_bytes(b'')
    assert len(check_dataset(root).problems) == 1 and 'Part0_label.bmp cannot be read' in check_dataset(root).problems[0]
    with pytest.warns(UserWarning): assert not [one for one in list_samples(root, skip_broken=True) if one.path.match('kos03/Part0.jpg')]


def test_pictures_of_one_part_stay_on_one_side(tmp_path):
    samples = list_samples(make_kolektor(tmp_path/'set'))
    splits = {}
    for sample in samples:
        if not sample.label: splits.setdefault(sample.path.parent.name, set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values()) and set.union(*splits.values()) == {'train', 'test'}


# the division

def names(count): return [Sample(data.Path(f'/set/good/{number:03}.png'), 'train', 0, 'good') for number in range(count)]


def set_aside(samples): return {sample.path.name for sample in samples if sample.split == 'test'}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.randoms())
def test_a_fifth_is_set_aside_whatever_the_order(count, random):
    samples = names(count)
    group_of = lambda sample: sample.path.name
    drawn = draw_test(samples, group_of, data.Path('/set'))
    assert len(set_aside(drawn)) == max(0, min(round(count / 5), count - 10))
    shuffled = random.sample(samples, count)
    assert set_aside(draw_test(shuffled, group_of, data.Path('/set'))) == set_aside(drawn)


def test_the_division_is_this_one():
    "On every machine: a number that changes is a division that changes under published results."
    drawn = draw_test(names(24), lambda sample: sample.path.name, data.Path('/set'))
    assert set_aside(drawn) == DIVISION


DIVISION = {'005.png', '007.png', '008.png', '015.png', '020.png'}


def test_the_folder_may_be_moved(tmp_path):
    make_sides(tmp_path/'one')
    shutil.copytree(tmp_path/'one', tmp_path/'deeper/two')
    first, second = (set_aside(list_samples(tmp_path/name)) for name in ('one', 'deeper/two'))
    assert first == second


def test_a_picture_more_changes_little(tmp_path):
    before, after = (set_aside(draw_test(names(count), lambda sample: sample.path.name, data.Path('/set'))) for count in (100, 101))
    assert len(before ^ after) <= 2


def test_twins_stay_on_one_side(tmp_path):
    root = make_sides(tmp_path/'set')
    for number in range(24): shutil.copy(root/f'good/{number:03}.png', root/f'good/twin_{number:03}.png')
    report = check_dataset(root)
    assert not report.problems and len(set_aside(report.samples) - {f'{number:03}.png' for number in range(30, 33)}) == 10


def test_few_images_are_all_for_training(tmp_path):
    write_many(tmp_path/'good', range(10))
    write_many(tmp_path/'bad', [30])
    report = check_dataset(tmp_path)
    assert Counter(sample.split for sample in report.samples) == {'train': 10, 'test': 1}
    assert any('0 of 10 normal images are set aside' in note for note in report.notes)


# what is said

def test_what_repeats_is_one_line(tmp_path):
    root = make_mvtec(tmp_path/'set')
    for number in range(7): (root/f'train/good/{number:03}.png').write_bytes((root/f'train/good/{number:03}.png').read_bytes()[:900 + number])
    shutil.rmtree(root/'ground_truth/hole')
    report = check_dataset(root)
    assert len(report.problems) == 10
    lines = [line for line in str(report).splitlines() if 'cannot be read' in line]
    assert len(lines) == 1 and lines[0].startswith('  7 images cannot be read (') and lines[0].endswith(': train/good/000.png, train/good/001.png, train/good/002.png and 4 more')
    assert '  3 defective images without a mask: test/hole/030.png, test/hole/031.png, test/hole/032.png' in str(report).splitlines()
    with pytest.raises(DatasetError) as error: list_samples(root)
    assert len(str(error.value).splitlines()) == 3


def test_a_finding_is_a_text_and_survives_a_process():
    one = Finding('no mask', 'a.png', 'images without a mask')
    again = pickle.loads(pickle.dumps(one))
    assert one == 'a.png: no mask' == again and (again.name, again.many) == ('a.png', 'images without a mask')
    assert grouped([Finding('one'), Finding('two')]) == ['one', 'two'] and grouped([]) == []


def test_sizes_depths_and_gray_are_counted(tmp_path):
    make_flat(tmp_path)
    Image.fromarray(np.array([[1000, 60000]], np.uint16).repeat(20, 0)).save(tmp_path/'deep.png')
    facts = check_dataset(tmp_path).facts
    assert facts[0] == 'sizes: 24 of 64 x 96, 1 of 20 x 2 (height x width)'
    low, high = (min if way else max for way in (True, False)), None
    pixels = [np.asarray(plate(number)) for number in range(24)]
    low, high = min(image.min() for image in pixels), max(image.max() for image in pixels)
    means = [round(image.mean()) for image in pixels]
    assert facts[1] == f'gray: 24 images of 8 bits, {low} to {high} of 255, means {min(means)} to {max(means)}'
    assert facts[2] == 'gray: 1 images of 16 bits, 1000 to 60000 of 65535, means 30500 to 30500'
    assert facts[3] == 'color: none, every picture is gray'


def test_color_is_told(tmp_path):
    for number in range(10): write(tmp_path/f'{number}.png', number, colour=number < 4)
    plate(20).convert('RGB').save(tmp_path/'three_channels.png')
    plate(21).convert('RGB').save(tmp_path/'three_channels.jpg')
    assert 'color: 4 of 12 images show some; gray only is looked at, a red spot of equal brightness is not seen' in check_dataset(tmp_path).facts


@pytest.mark.parametrize('original, size, resize, expected', [
    ((900, 900), (176, 976), 'stretch', 'lower than 10.2 or narrower than 1.84 pixels'),
    ((704, 1952), (176, 976), 'stretch', 'lower than 8 or narrower than 4 pixels'),
    ((900, 900), (300, 300), 'stretch', 'thinner than 6 pixels'),
    ((900, 450), (300, 300), 'pad', 'thinner than 6 pixels'),
    ((900, 450), (300, 300), 'crop', 'thinner than 3 pixels'),
    ((100, 100), (300, 300), 'pad', 'none'),
])
def test_what_is_lost_by_reduction(original, size, resize, expected): assert expected in reduction(original, size, resize)


def test_the_width_that_is_named_becomes_two_pixels():
    "A bar of that width covers 2 pixels of the reduced picture, whatever the pixels' grid is."
    image = np.zeros((900, 900), np.uint8)
    image[:, 300:312] = 255
    assert 'thinner than 12 pixels' in reduction((900, 900), (150, 150))
    assert data.fit_image(image, (150, 150)).sum(1).mean() / 255 == pytest.approx(2, rel=0.01)  # rounding to 8 bits


def test_identical_pictures_are_told_before_the_training(tmp_path, capsys):
    for number in range(12): write(tmp_path/f'all/{number:03}.png', 0)
    assert 'all 10 training images are the same picture' in too_alike(check_dataset(tmp_path/'all'))
    write_many(tmp_path/'held', range(12))
    _, held = data.hold_out(12, 0.15)
    for number in held: write(tmp_path/f'held/{number:03}.png', 5000)
    assert 'all 2 held-out images are the same picture' in too_alike(check_dataset(tmp_path/'held'))
    for name in ('all', 'held'):
        assert main(['check', str(tmp_path/name), '--size', '64x96']) == 1
        words = '--size 64x96 --steps 1 --batch-size 2 --device cpu --quiet --threads 1 --architecture autoencoder --damage none'
        assert main(['train', str(tmp_path/name), str(tmp_path/'a.safetensors'), *words.split()]) == 1
    assert not too_alike(check_dataset(make_flat(tmp_path/'flat')))


def test_defects_without_masks_give_image_metrics_alone(tmp_path):
    root = make_mvtec(tmp_path/'set', masks=False)
    report = check_dataset(root)
    assert not report.problems and any('no masks, so defects can be detected but their location not measured' in note for note in report.notes)
    detector = Detector(size=SIZE, architecture='autoencoder', damage='none', score='residual', steps=1, batch_size=2, device='cpu')
    samples = list_samples(root)
    detector.fit([sample for sample in samples if sample.split == 'train'], progress=False, threads=1)
    found = evaluate_detector(detector, [sample for sample in samples if sample.split == 'test'], bootstrap=0)
    scores = detector.anomaly_score([sample for sample in samples if sample.split == 'test'])
    normal, defective = scores[:4], scores[4:]
    expected = (defective[:, None] > normal[None]).float().mean().item()
    assert found.figures['image_auroc'] == pytest.approx(expected)
    assert all(np.isnan(value) for name, value in found.figures.items() if 'pro' in name or 'pixel' in name)


# the sheet

def test_the_sheet_shows_normal_images_and_every_kind(tmp_path):
    root = make_mvtec(tmp_path/'set')
    write_many(root/'test/crack', range(40, 46), spot=True)
    for number in range(40, 46): write_mask(root/f'ground_truth/crack/{number:03}.png')
    path = contact_sheet(check_dataset(root), tmp_path/'new/sheet.PNG', width=96)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (4 * 16 + 5 * (64 + 4), 4 * 100, 3)      # two rows of training, one of each kind in the test
    outlined = (sheet == (255, 0, 0)).all(-1)
    edge = 2 * (12 + 8) - 4
    assert outlined.sum() == 7 * edge and not outlined[:2 * 68 + 16].any()
    assert np.array_equal(sheet[16:16 + 64, :96, 0], np.asarray(plate(0)))


def test_the_sheet_takes_deep_and_wide_pictures(tmp_path):
    Image.fromarray(np.full((20, 400), 65535, np.uint16)).save(tmp_path/'deep.png')
    Image.fromarray(np.full((400, 20), 7, np.uint8)).save(tmp_path/'tall.png')
    sheet = Image.open(contact_sheet(check_dataset(tmp_path), tmp_path/'sheet.png', width=100))
    assert sheet.size == (4 * 104, 16 + 100 + 4) and sheet.getpixel((3, 18)) == (255, 255, 255) and sheet.getpixel((106, 60)) == (7, 7, 7)


def test_the_sheet_refuses(tmp_path):
    make_flat(tmp_path/'set')
    with pytest.raises(ValueError, match='must end in .png'): contact_sheet(check_dataset(tmp_path/'set'), tmp_path/'sheet.jpg')
    with pytest.raises(ValueError, match='no image'): contact_sheet(check_dataset(tmp_path/'nowhere'), tmp_path/'sheet.png')


def test_check_writes_the_sheet(tmp_path, capsys):
    words = argparse.Namespace(folder=make_flat(tmp_path/'set'), size=SIZE, contact_sheet=tmp_path/'sheet.png')
    assert check(words) == 0 and (tmp_path/'sheet.png').exists() and 'sheet.png' in capsys.readouterr().out

"The embedded set: complete, repeatable, and not to be told apart by a plain number."
import ast
import inspect

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recon_ad import strips as room
from recon_ad.data import load_images, load_masks
from recon_ad.layouts import check_dataset, list_samples
from recon_ad.strips import STRIP_DEFECTS, damage_mask, make_defect, make_part, make_strip_category, photograph


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return make_strip_category(tmp_path_factory.mktemp('strips')/'set', seed=3, n_train=4, n_good=30, n_defect=36)


def test_the_set_is_sound_and_complete(folder):
    report = check_dataset(folder)
    assert not report.problems and not report.notes
    kinds = {sample.defect for sample in report.samples if sample.label}
    assert kinds == set(STRIP_DEFECTS) and len(kinds) >= 4
    assert {(size, bits) for *_, size, bits in report.contents} == {('176 x 976', '8')}
    for sample, mask in zip(report.samples, load_masks(report.samples)):
        assert mask.shape == (176, 976) and bool(sample.label) == mask.any() and mask.mean() < 0.06


def test_equal_seed_equal_set_and_another_seed_another(folder, tmp_path):
    same, other = (list_samples(make_strip_category(tmp_path/str(seed), seed=seed, n_train=2, n_good=1, n_defect=6)) for seed in (3, 4))
    before = load_images([folder/sample.path.relative_to(tmp_path/'3') for sample in same])
    assert np.array_equal(before, load_images(same))
    assert not any(np.array_equal(*pair) for pair in zip(before, load_images(other)))


def test_a_changed_recipe_replaces_the_set_and_an_interrupted_one_is_finished(tmp_path):
    folder = make_strip_category(tmp_path/'set', n_train=2, n_good=2, n_defect=6)
    (folder/'test/good/001.png').unlink()
    assert len(list_samples(make_strip_category(folder, n_train=2, n_good=2, n_defect=6))) == 10
    assert len(list_samples(make_strip_category(folder, n_train=1, n_good=1, n_defect=6))) == 8


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path/'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='holds other files'): make_strip_category(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ['thesis.txt']


def test_no_plain_number_tells_good_from_defective(folder):
    samples = [sample for sample in list_samples(folder) if sample.split == 'test']
    images, labels = load_images(samples).astype(np.float32), [sample.label for sample in samples]
    for number in (np.mean, np.std, np.min, np.max, np.median):
        assert 0.25 < roc_auc_score(labels, [number(image) for image in images]) < 0.75, number.__name__


@pytest.mark.parametrize('kind', STRIP_DEFECTS)
def test_a_defect_is_seen_where_its_mask_is_and_nowhere_else(kind):
    part = make_part(np.random.default_rng(0))
    damaged = STRIP_DEFECTS[kind](part, np.random.default_rng(1), 1.0)
    mask = damage_mask(part, damaged)
    before, after = (photograph(what, np.random.default_rng(2)).astype(int) for what in (part, damaged))
    change = np.abs(after - before)
    assert change[~mask].max() <= 4 and change[mask].mean() > 3 and mask.sum() >= 25


@pytest.mark.parametrize('kind', STRIP_DEFECTS)
def test_strength_goes_from_faint_to_plain(kind):
    part = make_part(np.random.default_rng(0))
    changes = [np.abs(room._brightness(STRIP_DEFECTS[kind](part, np.random.default_rng(5), strength)) - room._brightness(part)).sum()
               for strength in (0.25, 0.5, 1.0)]
    assert changes[0] < changes[1] < changes[2]


def test_two_defects_are_never_the_same():
    first, second = (make_defect('stain', np.random.default_rng(seed))[0] for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, make_defect('stain', np.random.default_rng(0))[0])


def test_defects_share_no_code_with_the_training_damage():
    imported = {node.module for node in ast.walk(ast.parse(inspect.getsource(room))) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if 'recon_ad' in name or name.startswith('.')]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='crack, dent, fibre'): make_defect('rust', np.random.default_rng(0))
    with pytest.raises(ValueError, match='counts must be >= 0'): make_strip_category('never_made', n_train=-1)


@pytest.mark.parametrize('size', [(176, 500), (176, 90), (100, 976)])
def test_a_frame_that_shows_only_some_of_the_part(size):
    "Holes and marks outside the frame are left out; they raised an error before."
    assert make_part(np.random.default_rng(0), size).height.shape == size

"Pictures that are the same to a network are named before a training, by `check` and `train` alike."
import numpy as np
import pytest
from PIL import Image

from recon_ad.alike import alike_groups, alike_note, find_alike
from recon_ad.cli import main
from recon_ad.data import Sample
from recon_ad.detector import Detector

WORDS = "--size 64x96 --steps 1 --batch-size 2 --device cpu --quiet --threads 1 --architecture autoencoder --damage none".split()


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def noise(seed, size=(128, 192)): return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("bits", [8, 16])
def test_groups_are_those_of_all_pairs(bits):
    "Beside a comparison of every pixel of every pair with the first of each group."
    random = np.random.default_rng(bits)
    kinds = random.integers(10, 240, (5, 9, 14))
    images = kinds[random.integers(0, 5, 40)] + random.integers(-1, 2, (40, 9, 14))
    images = images.astype(np.uint8) if bits == 8 else (images * 257).astype(np.uint16)
    values, expected, left = images.astype(int), [], list(range(40))
    while left:
        same = [other for other in left if np.abs(values[other] - values[left[0]]).max() <= 2 * (1 if bits == 8 else 257)]
        if len(same) > 1: expected.append(same)
        left = [other for other in left if other not in same]
    assert alike_groups(images) == expected and expected


def test_a_picture_saved_twice_is_found_whatever_its_size_and_kind(tmp_path):
    for number in range(6): write(tmp_path / f"{number}.png", noise(number))
    Image.open(tmp_path / "2.png").resize((384, 256), Image.Resampling.NEAREST).save(tmp_path / "large.bmp")
    names = sorted(path.name for path in tmp_path.iterdir())
    samples = [Sample(tmp_path / name, "train", 0, "good") for name in names]
    groups = find_alike(samples, (64, 96))
    assert [[names[number] for number in group] for group in groups] == [["2.png", "large.bmp"]]
    assert alike_note(names, groups).startswith("1 training picture more than once, to the network: 2.png = large.bmp")


@pytest.mark.parametrize("which", ["training", "held-out"])
def test_pictures_that_are_one_at_the_network_s_size_are_refused_before_the_training(tmp_path, capsys, monkeypatch, which):
    "They differ in a pixel, which is lost in the reduction: no picture is a copy of another."
    from recon_ad.data import hold_out
    kept, held = hold_out(12, 0.15)
    same = held if which == "held-out" else kept
    for number in range(12):
        image = noise(0 if number in same else number + 1, (640, 960))
        if number in same: image[number, 5] = int(image[number, 5]) ^ 1
        write(tmp_path / "set" / f"{number:02}.png", np.asarray(image))
    monkeypatch.setattr(Detector, "fit", lambda *given: pytest.fail("the training has begun"))
    assert main(["check", str(tmp_path / "set"), "--size", "64x96"]) == 1
    assert f"all {len(same)} {which} images are the same picture" in capsys.readouterr().out
    assert main(["train", str(tmp_path / "set"), str(tmp_path / "a.safetensors"), *WORDS]) == 1
    error = capsys.readouterr().err
    assert f"all {len(same)} {which} images are the same picture" in error and error.count("\n") == 1


def test_pictures_that_repeat_are_named_before_the_training(tmp_path, capsys, monkeypatch):
    for number in range(12): write(tmp_path / "set" / f"{number:02}.png", noise(number))
    write(tmp_path / "set" / "twin.bmp", (noise(3).astype(int) + 1).clip(0, 255).astype(np.uint8))
    said = "1 training picture more than once, to the network: 03.png = twin.bmp"
    assert main(["check", str(tmp_path / "set"), "--size", "64x96"]) == 0
    assert said in capsys.readouterr().out
    def fit(*given): raise RuntimeError("that is enough")
    monkeypatch.setattr(Detector, "fit", fit)
    assert main(["train", str(tmp_path / "set"), str(tmp_path / "a.safetensors"), *WORDS]) == 1
    assert f"note: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--held-out-share", "0.05"], ["--held-out-share", "0.5"], ["--resize", "pad"], ["--seed", "7"]], ids=" ".join)
def test_check_is_told_what_train_is_told(tmp_path, capsys, monkeypatch, words):
    for number in range(12): write(tmp_path / "set" / f"{number:02}.png", noise(number))
    monkeypatch.setattr("recon_ad.cli.say_trained", lambda *given: None)
    codes = main(["check", str(tmp_path / "set"), "--size", "64x96", *words]), main(["train", str(tmp_path / "set"), str(tmp_path / "a.safetensors"), *WORDS, *words])
    assert codes == ((1, 1) if words[1] == "0.05" else (0, 0)), capsys.readouterr()


def test_images_left_out_are_told_and_nothing_else_changes(tmp_path, capsys):
    for number in range(12): write(tmp_path / "set" / f"{number:02}.png", noise(number))
    (tmp_path / "set" / "broken.png").write_bytes(b"")
    assert main(["train", str(tmp_path / "set"), str(tmp_path / "a.safetensors"), *WORDS]) == 1
    capsys.readouterr()
    assert main(["train", str(tmp_path / "set"), str(tmp_path / "a.safetensors"), *WORDS, "--skip-broken"]) == 0
    assert capsys.readouterr().err.startswith("recon_ad: train: 1 of 13 images left out\n  broken.png: cannot be read")

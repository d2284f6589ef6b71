"What leaves this machine: the same numbers on another processor and without this library, and no verdict that is wrong."
import ast
import copy
import os

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import recon_ad
from recon_ad.data import load_images
from recon_ad.detector import Detector
from recon_ad.export import READER, describe, export_onnx
from recon_ad.latent import whitening


SIZE = (32, 64)
ABOUT = {"height": "32", "width": "64"}


@pytest.fixture(scope="module")
def detector():
    images = np.random.default_rng(0).integers(60, 120, (16, *SIZE)).astype(np.uint8)
    small = {"width": 4, "depth": 2, "bottleneck": 4}
    return Detector(
        size=SIZE, architecture="autoencoder", architecture_options=small, score="residual + mahalanobis", damage="none", crop=None,
        steps=2, batch_size=4, precision="float32", held_out_share=0.3, device="cpu",
    ).fit(images, progress=False)


@pytest.fixture(scope="module", params=[8, 16])
def graph(request, detector, tmp_path_factory):
    "Bits of a pixel, and the exported graph."
    path = export_onnx(detector, tmp_path_factory.mktemp("graph") / "parts.onnx", request.param)
    return request.param, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def picture(path, size, bits=8, seed=0):
    "A picture with soft and hard edges."
    rng = np.random.default_rng(seed)
    values = np.kron(rng.integers(40, 200, (5, 7)), np.ones((40, 40)))[:size[0], :size[1]] + rng.normal(0, 9, size)
    Image.fromarray((values.clip(0, 255) * (257 if bits == 16 else 1)).astype(f"uint{bits}")).save(path)
    return path


class Session:
    "A graph whose metadata say something else; without a graph it answers with the picture that it was given."
    def __init__(self, about, graph=None): self.custom_metadata_map, self.graph = about, graph

    def get_modelmeta(self): return self

    def run(self, names, given): return self.graph.run(names, given) if self.graph else given["image"]


def reader():
    found = {}
    exec(READER, found)
    return found["judge"]


class TestReader:
    def test_it_is_short_and_needs_neither_this_library_nor_pytorch(self):
        assert len(READER.splitlines()) <= 12 and max(map(len, READER.splitlines())) <= 120
        imported = {name for node in ast.walk(ast.parse(READER)) if isinstance(node, ast.Import) for name in [node.names[0].name]}
        assert imported | {node.module for node in ast.walk(ast.parse(READER)) if isinstance(node, ast.ImportFrom)} == {"numpy", "PIL"}

    @pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("size", [(97, 131), (130, 61), (20, 30), (32, 64), (33, 64), (9, 200), (200, 20)])
    def test_it_resizes_as_the_library_does(self, tmp_path, resize, bits, size):
        "Both round to whole levels what they have computed in float32 in different orders: a tie may go either way."
        path = picture(tmp_path / "part.png", size, bits)
        found = reader()(path, Session(ABOUT | {"resize": resize}))[0]
        wanted = load_images([path], SIZE, resize)[0]
        assert found.dtype == wanted.dtype == f"uint{bits}" and found.shape == wanted.shape
        difference = abs(found.astype(int) - wanted.astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < (0.01 if bits == 8 else 0.2)

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "1"])
    def test_it_reads_colour_as_the_library_does(self, tmp_path, mode):
        colour = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(colour).convert(mode).save(tmp_path / "part.png")
        found = reader()(tmp_path / "part.png", Session(ABOUT | {"resize": "stretch"}))[0]
        assert np.array_equal(found, load_images([tmp_path / "part.png"], SIZE)[0])

    def test_it_refuses_a_way_of_resizing_that_it_does_not_know(self, tmp_path):
        with pytest.raises(KeyError, match="squeeze"):
            reader()(picture(tmp_path / "part.png", SIZE), Session(ABOUT | {"resize": "squeeze"}))

    @pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
    def test_its_scores_are_those_of_the_library(self, detector, graph, tmp_path, resize):
        bits, session = graph
        other = detector.copy()
        other.settings = detector.settings.changed(resize=resize)
        paths = [picture(tmp_path / f"{seed}.png", size, bits, seed) for seed, size in enumerate([(97, 131), (50, 200), (20, 30)])]
        found = [reader()(path, Session(describe(other, bits), session))[1].item() for path in paths]
        np.testing.assert_allclose(found, other.anomaly_score(paths), rtol=0.01)
        guess = [load_images([path], SIZE, resize)[0, ::-1] for path in paths]  # a picture upside down is no such picture
        assert not np.allclose([session.run(None, {"image": one[None]})[1].item() for one in guess], found, rtol=0.01)


class TestGraph:
    def test_it_takes_batches_of_any_size_and_no_answer_depends_on_its_neighbours(self, detector, graph):
        bits, session = graph
        images = np.random.default_rng(1).integers(0, 2**bits, (5, *SIZE)).astype(f"uint{bits}")
        alone = [session.run(["anomaly_score"], {"image": image[None]})[0].item() for image in images]
        np.testing.assert_allclose(alone, detector.anomaly_score(images), rtol=1e-3)
        for count in (1, 3, 5):
            found = session.run(["anomaly_score"], {"image": images[:count]})[0]
            np.testing.assert_allclose(found, alone[:count], rtol=1e-4)

    def test_it_says_what_a_reader_needs(self, detector, graph):
        bits, session = graph
        about = session.get_modelmeta().custom_metadata_map
        assert about == describe(detector, bits)
        assert (about["height"], about["width"], about["bits"], about["resize"]) == ("32", "64", str(bits), "stretch")
        assert about["recon_ad"] == recon_ad.__version__ and float(about["threshold"]) == detector.threshold_
        assert float(about["false_alarm_rate"]) == detector.false_alarm_rate_

    @pytest.mark.parametrize("where", ["trace", "save"])
    def test_a_failure_leaves_the_old_file(self, detector, tmp_path, monkeypatch, where):
        class Half:
            model = type("Model", (), {"metadata_props": {}})
            def save(self, path):
                path.write_bytes(b"half")
                raise RuntimeError("no more")
        def trace(judge, example):
            if where == "trace": raise RuntimeError("no more")
            return Half()
        monkeypatch.setattr("recon_ad.export._trace", trace)
        (tmp_path / "parts.onnx").write_bytes(b"old")
        with pytest.raises(RuntimeError, match="no more"): export_onnx(detector, tmp_path / "parts.onnx")
        assert (tmp_path / "parts.onnx").read_bytes() == b"old" and os.listdir(tmp_path) == ["parts.onnx"]

    def test_a_broken_network_passes_no_part(self, detector, tmp_path):
        "A score that is not a number is anomalous in the graph as in the detector."
        images = np.full((1, *SIZE), 90, np.uint8)
        broken = copy.deepcopy(detector)
        with torch.no_grad(): broken.model_.decoder.tail[0].bias.fill_(float("nan"))
        graph = onnxruntime.InferenceSession(export_onnx(broken, tmp_path / "broken.onnx"))
        score, verdict = graph.run(["anomaly_score", "is_anomalous"], {"image": images})
        assert np.isnan(score).all() and verdict.all()
        assert broken.predict(images).is_anomalous.all()


class Doubles(TorchDispatchMode):
    "Notes the devices on which something is computed in float64."
    def __init__(self):
        super().__init__()
        self.devices = set()

    def __torch_dispatch__(self, function, kinds, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor) and one.dtype == torch.float64: self.devices.add(one.device.type)
        return result


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_whitening_needs_no_float64_of_the_device_and_comes_back_to_it(device):
    "Tensors without content: shapes, types and devices are followed, and no such device is needed."
    with FakeTensorMode():
        covariance = torch.empty(3, 3, device=device)
        with Doubles() as doubles: whitened = whitening(covariance)
    assert (whitened.device.type, whitened.dtype, doubles.devices) == (device, torch.float32, {"cpu"})

"What leaves this machine: the same numbers on another processor and without this library, and no verdict that is wrong."
import numpy as np
import onnxruntime
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from recon_ad.detector import Detector
from recon_ad.export import export_onnx
from recon_ad.latent import whitening


def test_a_broken_network_passes_no_part(tmp_path):
    "A score that is not a number is anomalous in the graph as in the detector."
    images = np.random.default_rng(0).integers(60, 120, (16, 32, 64)).astype(np.uint8)
    small = {"width": 4, "depth": 1, "bottleneck": 4}
    detector = Detector(
        size=(32, 64), architecture_options=small, score="residual", steps=2, batch_size=4,
        precision="float32", held_out_share=0.3, device="cpu",
    ).fit(images, progress=False)
    with torch.no_grad(): detector.model_.decoder.tail[0].bias.fill_(float("nan"))
    graph = onnxruntime.InferenceSession(export_onnx(detector, tmp_path / "broken.onnx"))
    score, verdict = graph.run(["anomaly_score", "is_anomalous"], {"image": images[:1]})
    assert np.isnan(score).all() and verdict.all()
    assert detector.predict(images[:1]).is_anomalous.all()


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

"An exported detector: what it must never do, whatever breaks."
import numpy as np
import onnxruntime
import torch

from recon_ad.detector import Detector
from recon_ad.export import export_onnx


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

"""What 8-bit convolutions cost in accuracy: AU-PRO of one trained detector on the embedded strips, both ways.

    python benchmarks/run.py --only int8      # trains for 1000 steps first: five minutes of one quiet core
"""
import tempfile
from pathlib import Path

import numpy as np
from graph import as_int8, session_of
from timing import row

from recon_ad.data import load_images, load_masks
from recon_ad.detector import Detector
from recon_ad.experiment import embedded_strips
from recon_ad.export import export_onnx, in_float32
from recon_ad.layouts import list_samples
from recon_ad.metrics import evaluate


def figures_of(graph: Path, images: np.ndarray, masks: list, labels: list[int]) -> dict:
    "Metrics of a graph on the test strips."
    session, maps, scores = session_of(graph), [], []
    for image in images:
        anomaly_map, score = session.run(["anomaly_map", "anomaly_score"], {"image": image[None]})
        maps.append(anomaly_map[0])
        scores.append(score[0])
    return evaluate(maps, masks, labels, image_scores=np.array(scores), bootstrap=0).figures


def measure(quick: bool) -> list[dict]:
    "Points of AU-PRO and image AUROC that are lost."
    folder = embedded_strips()
    normal, test = list_samples(folder, "train"), list_samples(folder, "test")
    detector = Detector(steps=100 if quick else 1000, device="cpu").fit(normal, progress=False)
    detector = in_float32(detector, normal)
    size = detector.settings.size
    images, masks, labels = load_images(test, size), load_masks(test), [sample.label for sample in test]
    with tempfile.TemporaryDirectory() as place:
        graph = export_onnx(detector, Path(place) / "strips.onnx")
        small = as_int8(graph, load_images(normal[:32], size), Path(place) / "strips-int8.onnx")
        whole, short = (figures_of(one, images, masks, labels) for one in (graph, small))
    told = {"float32": round(whole["aupro"], 4), "int8": round(short["aupro"], 4)}
    lost = {name: 100 * (whole[name] - short[name]) for name in ("aupro", "image_auroc")}
    return [
        row("int8: AU-PRO lost on the embedded strips", lost["aupro"], "points", 1, "lower", 1.0, **told),
        row("int8: image AUROC lost on the embedded strips", lost["image_auroc"], "points", 1, "lower", 1.0),
    ]

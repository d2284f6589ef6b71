"""What a picture costs from file to score, beside the network alone; in PyTorch, as an ONNX graph, and with 8-bit weights.

    python benchmarks/run.py --only graph

Batch normalisation is folded by ONNX Runtime when it loads a graph; what that would gain in PyTorch is measured.
"""
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import interleaved, ratio, row
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from recon_ad.data import load_images
from recon_ad.detector import Detector, observe
from recon_ad.export import export_onnx


def noisy_images(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 190, (count, *size), dtype=np.uint8)


def fitted(size: tuple[int, int]) -> Detector:
    "A detector that has hardly learnt anything: its speed does not depend on what it knows."
    settings = {"damage": "parts + surfaces; probability=0.6, times=2", "steps": 1, "batch_size": 2}
    detector = Detector(size=size, precision="float32", held_out_share=0.3, device="cpu", **settings)
    return detector.fit(noisy_images(8, size), progress=False, threads=torch.get_num_threads())


def folded(model: nn.Module) -> nn.Module:
    "The network with each normalisation multiplied into the convolution before it."
    model = deepcopy(model)
    for block in model.modules():
        if not isinstance(block, nn.Sequential): continue
        for place in range(len(block) - 1):
            if not isinstance(block[place], nn.Conv2d) or not isinstance(block[place + 1], nn.BatchNorm2d): continue
            block[place] = fuse_conv_bn_eval(block[place], block[place + 1])
            block[place + 1] = nn.Identity()
    return model.to(memory_format=torch.channels_last)


def as_int8(graph: Path, images: np.ndarray, path: Path) -> Path:
    "The graph with the network's convolutions in 8 bits, their ranges read off some normal images."
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Some(CalibrationDataReader):
        def __init__(self): self.left = iter(images)
        def get_next(self): return next(({"image": image[None]} for image in self.left), None)
    quantize_static(graph, path, Some(), QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True)
    return path


def session_of(path: Path):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def at_size(size: tuple[int, int], rounds: int, folder: Path) -> list[dict]:
    "One picture of one size by every way."
    detector, where = fitted(size), f"{size[0]}x{size[1]}"
    picture = folder / f"{where}.png"
    Image.fromarray(noisy_images(1, size, 7)[0]).save(picture)
    graph = export_onnx(detector, folder / f"{where}.onnx")
    small = as_int8(graph, noisy_images(8, size, 3), folder / f"{where}-int8.onnx")
    sessions = {"onnx": session_of(graph), "int8": session_of(small)}
    image = torch.rand(1, 1, *size).contiguous(memory_format=torch.channels_last)
    light = folded(detector.model_)

    def asked(model):
        with torch.inference_mode(): return observe(model, image)
    torch.testing.assert_close(asked(light).reconstruction, asked(detector.model_).reconstruction, rtol=1e-3, atol=1e-4)
    run = lambda name: sessions[name].run(["anomaly_score"], {"image": load_images([picture], size)})
    seconds = interleaved({
        "file to score": lambda: detector.predict([picture]),
        "network": lambda: asked(detector.model_),
        "network, folded": lambda: asked(light),
        "onnx": lambda: run("onnx"),
        "int8": lambda: run("int8"),
    }, rounds)
    part = lambda above, below: ratio(seconds, above, below)
    return [
        row(f"inference, {where}, float32: file to score over the network alone", part("file to score", "network"), "ratio", rounds, "lower", 1.2),
        row(f"inference, {where}, float32: network over the same with folded normalisation", part("network", "network, folded"), "ratio", rounds),
        row(f"inference, {where}: file to score, PyTorch over ONNX Runtime, float32", part("file to score", "onnx"), "ratio", rounds),
        row(f"inference, {where}: file to score, ONNX Runtime, float32 over int8", part("onnx", "int8"), "ratio", rounds),
    ]


def measure(quick: bool) -> Iterator[dict]:
    "All figures of one picture."
    sizes = ((256, 256),) if quick else ((176, 976), (256, 256))
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes: yield from at_size(size, 5, Path(folder))

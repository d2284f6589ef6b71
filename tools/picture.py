"""The front page's picture: what a network of two minutes' training finds on the embedded strips.

    python tools/picture.py       trains as nbs/phases/00_quickstart.ipynb does, writes nbs/images/quickstart.png
"""
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from torch.nn.functional import max_pool2d

from recon_ad.architectures import COARSE
from recon_ad.data import fit_mask, load_images, load_masks, to_float
from recon_ad.layouts import list_samples
from recon_ad.detector import Detector
from recon_ad.experiment import find_data
from recon_ad.plots import ANOMALY_CMAP, GRAY_CMAP, MASK_COLOUR, common_vmax, recon_ad_style

SIZE, WIDTH = (176, 976), 360  # of a strip; of the part that is shown; in pixels
PICTURE = Path(__file__).parent.parent / "nbs" / "images" / "quickstart.png"


def draw(rows: list[tuple], vmax: float) -> pyplot.Figure:
    "A row a defect: the part, the part with the outline, the map; rows: (kind, score, image, mask, map)."
    with recon_ad_style():
        figure, grid = pyplot.subplots(len(rows), 3, figsize=(9, 4.9))
        for axes, (kind, score, image, mask, found) in zip(grid, rows):
            middle = int(np.nonzero(mask.any(0))[0].mean())
            left = min(max(middle - WIDTH // 2, 0), SIZE[1] - WIDTH)
            cut = np.s_[:, left:left + WIDTH]
            around = max_pool2d(torch.tensor(mask)[None].float(), 13, 1, 6)[0].numpy()
            gray = {"cmap": GRAY_CMAP, "vmin": 0, "vmax": 1, "interpolation_stage": "data"}
            for ax in axes[:2]: ax.imshow(image[cut], **gray)
            axes[1].contour(around[cut], levels=[0.5], colors=[MASK_COLOUR], linewidths=1.4)
            axes[2].imshow(found[cut], cmap=ANOMALY_CMAP, vmin=0, vmax=vmax)
            axes[0].set_title(f"{kind}")
            axes[1].set_title("where it is")
            axes[2].set_title(f"map, score {score:.0f}")
            for ax in axes: ax.axis("off")
        pyplot.close(figure)
    return figure


def main() -> None:
    samples = list_samples(find_data("strips"))  # embedded
    images = load_images([sample for sample in samples if sample.split == "train"], SIZE)
    detector = Detector(size=SIZE, held_out_share=0.2, architecture_options=COARSE).fit(images, seconds=120)
    defects = [sample for sample in samples if sample.split == "test" and sample.label]
    maps = detector.anomaly_map(defects).numpy()
    scores = detector.anomaly_score(defects).numpy()
    pictures = to_float(load_images(defects, SIZE))[:, 0]
    masks = [np.asarray(fit_mask(mask, SIZE)) for mask in load_masks(defects)]
    chosen = {}  # the highest score of each kind, the three highest kinds
    for place in np.argsort(-scores): chosen.setdefault(defects[place].defect, place)
    rows = [(kind, scores[at], np.asarray(pictures[at]), masks[at], maps[at]) for kind, at in list(chosen.items())[:3]]
    print([(kind, round(float(score), 1)) for kind, score, *_ in rows])
    draw(rows, common_vmax(maps)).savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()

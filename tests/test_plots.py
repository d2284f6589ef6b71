"The plots room: what is drawn is where the array says, on one range, and the caller's own plots stay as they were."
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.ndimage import gaussian_filter

from recon_ad.anomaly_maps import decide
from recon_ad.plots import (
    ANOMALY_CMAP, _is_alarm, as_images, common_vmax, overlay, plot_curve, plot_history, plot_score_histogram, plot_study,
    recon_ad_style, show_detection, show_images,
)
from recon_ad.strips import make_defect

STRIP, SQUARE = (44, 244), (64, 64)


def spot(size, row, column):
    rows, columns = np.mgrid[:size[0], :size[1]]
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 50).astype(np.float32)


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def panels(figure): return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize('place', [(5, 10), (5, 230), (38, 10), (38, 230)])
def test_overlay_is_hot_where_the_map_is_and_in_the_right_channels(place):
    drawn = overlay(np.full(STRIP, 0.2, np.float32), spot(STRIP, *place), vmax=1.0).astype(int)
    brightness = drawn.sum(-1)
    assert np.abs(np.argwhere(brightness == brightness.max()).mean(0) - place).max() <= 1
    red, green, blue = drawn[place]
    assert min(red, green) > blue + 50
    away = spot(STRIP, *place) < 1e-6
    assert (drawn[away] == 51).all()


def test_overlay_has_one_scale_for_all():
    dim, bright = (overlay(np.zeros(STRIP, np.float32), level * spot(STRIP, 20, 100), vmax=1.0).astype(int).sum() for level in (0.2, 1.0))
    assert dim < bright / 4
    clipped = [overlay(np.zeros(STRIP, np.float32), np.full(STRIP, level, np.float32), vmax=1.0) for level in (1.0, 5.0)]
    assert np.array_equal(*clipped)


def test_overlay_draws_the_threshold_as_a_line_only():
    image, heat = np.zeros(SQUARE, np.float32), np.zeros(SQUARE, np.float32)
    heat[20:40, 20:40] = 0.5
    changed = (overlay(image, heat, 1.0, threshold=0.4) != overlay(image, heat, 1.0)).any(-1)
    assert changed[20, 20:40].all() and changed[39, 20:40].all() and not changed[21:39, 21:39].any() and not changed[:20].any()
    assert np.array_equal(overlay(image, heat, 1.0, threshold=0.6), overlay(image, heat, 1.0))


@pytest.mark.parametrize('vmax', [0.0, -1.0, float('nan')])
def test_overlay_refuses_an_empty_range(vmax):
    with pytest.raises(ValueError, match='vmax must be > 0'): overlay(np.zeros(SQUARE, np.float32), np.zeros(SQUARE, np.float32), vmax)


@pytest.mark.parametrize('size', [STRIP, SQUARE])
def test_detection_draws_a_known_map_where_it_is_and_on_one_range(size):
    maps = np.stack([spot(size, 10, 20), 0.3 * spot(size, 30, 40)])
    figure = show_detection(np.zeros((2, 1, *size), np.float32), np.zeros((2, 1, *size), np.float32), torch.from_numpy(maps), maps > 0.5, vmax=1.0)
    heat = [axes for axes in panels(figure) if axes.images[0].cmap.name == ANOMALY_CMAP]
    assert len(heat) == 2 and {axes.images[0].get_clim() for axes in heat} == {(0, 1)}
    drawn = pixels(figure)
    box = heat[0].get_window_extent()
    column, row = heat[0].transData.transform((20, 10))
    there = drawn[int(drawn.shape[0] - row), int(column)]
    assert min(there[0], there[1]) > there[2] + 30  # yellow, not blue
    lower = drawn[int(drawn.shape[0] - box.y1) + 3, int(box.x1) - 3]
    assert lower.sum() < 20
    weak = heat[1].transData.transform((40, 30))
    assert drawn[int(drawn.shape[0] - weak[1]), int(weak[0])].sum() < there.sum() / 2


def test_strips_lie_under_each_other_and_squares_side_by_side():
    for size, one_column in ((STRIP, True), (SQUARE, False)):
        images = np.zeros((3, *size), np.float32)
        for figure in (show_images(images), show_detection(images[:1], images[:1], images[:1])):
            pixels(figure)
            lefts = {round(axes.get_position().x0, 2) for axes in panels(figure)}
            assert (len(lefts) == 1) == one_column


@pytest.mark.parametrize('make', [
    lambda: np.zeros((2, *SQUARE), np.uint8), lambda: np.zeros((2, 1, *SQUARE), np.uint16), lambda: torch.zeros(2, 1, *SQUARE),
    lambda: torch.zeros(2, *SQUARE, dtype=torch.uint8), lambda: [np.zeros(SQUARE, np.float64)] * 2, lambda: [torch.zeros(1, *SQUARE, requires_grad=True)] * 2,
    lambda: torch.zeros(2, 1, *SQUARE, dtype=torch.bfloat16), lambda: np.zeros((2, *SQUARE, 3), np.uint8),
])
def test_all_that_holds_images_is_taken(make):
    assert [image.shape[:2] for image in as_images(make())] == [SQUARE] * 2
    assert len(panels(show_images(make()))) == 2


def test_gray_is_never_stretched():
    figure = show_images([np.full(SQUARE, 0.4, np.float32), np.full(SQUARE, 0.6, np.float32)])
    assert [axes.images[0].get_clim() for axes in panels(figure)] == [(0, 1)] * 2


def test_an_empty_mask_and_a_map_of_zeros_are_no_trouble():
    zeros = np.zeros((1, *STRIP), np.float32)
    figure = show_detection(zeros, None, zeros, zeros > 0, threshold=0.5)
    pixels(figure)
    assert [axes.images[0].cmap.name for axes in panels(figure)][1:] == [ANOMALY_CMAP]
    assert common_vmax(zeros) > 0


def test_unequal_counts_are_named():
    images = np.zeros((2, *SQUARE), np.float32)
    with pytest.raises(ValueError, match="'reconstruction': 1"): show_detection(images, images[:1], images)


def test_nothing_leaks_into_the_callers_plots():
    before, open_figures = dict(plt.rcParams), plt.get_fignums()
    images = np.zeros((2, *SQUARE), np.float32)
    show_images(images), show_detection(images, images, images)
    plot_curve([0, 1], [0, 1]), plot_history([{'step': 0, 'total': 1.0}]), plot_score_histogram([0.0, 1.0], [0, 1])
    with pytest.raises(RuntimeError), recon_ad_style(): raise RuntimeError
    assert dict(plt.rcParams) == before and plt.get_fignums() == open_figures


def test_a_curve_can_be_drawn_into_a_given_place():
    figure, axes = plt.subplots()
    assert plot_curve([0, 1], [0, 1], ax=axes, limit=0.3, chance=0.2) is figure and len(axes.lines) == 2
    plt.close(figure)


@pytest.mark.parametrize('wrap', [list, pd.DataFrame])
def test_history_draws_every_term_and_survives_gaps(wrap):
    rows = [{'step': step, 'lr': 1e-3, 'total': 1 / (1 + step), 'mse': float('nan') if step == 3 else 0.5} for step in range(100)]
    axes = plot_history(wrap(rows)).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['total', 'mse'] and axes.get_yscale() == 'log'


def test_histogram_counts_what_the_threshold_does():
    title = plot_score_histogram([0.1, 0.2, 0.9, 0.3, 0.8, 0.95], [0, 0, 0, 1, 1, 1], threshold=0.5).axes[0].get_title(loc='left')
    assert title == 'The threshold misses 1 of 3 defects and alarms on 1 of 3 normal images'


def test_a_score_that_equals_the_threshold_is_no_alarm():
    threshold = 0.5
    title = plot_score_histogram([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1], threshold).axes[0].get_title(loc='left')
    assert title == 'The threshold misses 1 of 2 defects and alarms on 0 of 2 normal images'
    image, flat = np.zeros(SQUARE, np.float32), np.full(SQUARE, threshold, np.float32)
    assert np.array_equal(overlay(image, flat, 1.0, threshold=threshold), overlay(image, flat, 1.0))
    flat[:32] = 0.2
    lines = [axes.collections for axes in panels(show_detection(image[None], None, flat[None], threshold=threshold))]
    assert not any(lines)


def test_what_is_no_finite_number_is_an_alarm():
    image, heat = np.zeros(SQUARE, np.float32), np.zeros(SQUARE, np.float32)
    heat[20, 30] = float('nan')
    assert overlay(image, heat, 1.0, threshold=0.5)[20, 30].tolist() == [87, 181, 232]
    figure = show_detection(image[None], None, heat[None], vmax=1.0, threshold=0.5)
    (line,) = panels(figure)[1].collections
    assert np.abs(line.get_paths()[0].vertices - [30, 20]).max() < 1


def test_plots_decide_as_the_detector_does():
    near = np.float32(0.1)  # above 0.1, which has no exact float32
    scores = [0.0, near, np.nextafter(near, np.float32(0)), 1.0, float('nan'), float('inf'), -float('inf')]
    for threshold in (0.1, float(near), 1.0, float('inf')):
        assert _is_alarm(np.array(scores, np.float32), threshold).tolist() == decide(torch.tensor(scores), threshold).tolist()


def studied(values):
    "Runs of a study: {(set, variant): values}."
    rows = [{"data": data, "variant": variant, "aupro": value, "shortcut.image_auroc": 0.9}
            for (data, variant), runs in values.items() for value in runs]
    return pd.DataFrame(rows)


def test_panels_of_a_study_share_a_scale_that_holds_every_dot():
    values = {("grid", "clean"): [0.9, 0.95], ("grid", "damaged"): [0.97], ("pill", "clean"): [0.2], ("pill", "damaged"): [0.4, 0.3]}
    panels = plot_study(studied(values), "aupro").axes
    assert [axes.get_title(loc="left") for axes in panels] == ["grid", "pill"]
    assert len({axes.get_xlim() for axes in panels}) == 1
    for axes in panels:
        low, high = axes.get_xlim()
        drawn = np.concatenate([line.get_xdata() for line in axes.lines])
        assert len(drawn) and low < drawn.min() and drawn.max() < high
    dots = [line.get_xdata() for line in panels[1].lines if line.get_marker() == "o"]
    bars = [line.get_xdata()[0] for line in panels[1].lines if line.get_marker() != "o"]
    assert np.allclose(dots[1], [40, 30]) and np.allclose(bars, [20, 35])


def test_a_single_variant_of_a_study_is_one_panel_with_a_shortcut_a_row():
    values = {("grid", "clean"): [0.9, 0.95], ("pill", "clean"): [0.2]}
    (axes,) = plot_study(studied(values), "aupro", shortcut=True, xlabel="image AUROC (%)").axes
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(dashed) == 2 and all(np.allclose(line.get_xdata(), 90) for line in dashed)
    low, high = axes.get_ylim()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["grid", "pill"] and low > high


def test_a_study_may_lack_runs_and_numbers():
    gap = {("grid", "clean"): [0.9], ("pill", "damaged"): [float("nan"), 0.3]}
    panels = plot_study(studied(gap), "aupro", scale=1, xlim=(0, 1)).axes
    dots = [len(line.get_xdata()) for axes in panels for line in axes.lines if line.get_marker() == "o"]
    assert dots == [1, 0, 0, 1] and panels[0].get_xlim() == (0, 1)
    with pytest.raises(ValueError, match="no run"): plot_study(studied(gap)[:0], "aupro")


def test_figures_are_small(tmp_path):
    generator = np.random.default_rng(0)
    image, mask = make_defect('stain', generator)
    image = image[None] / np.float32(255)
    reconstruction = gaussian_filter(image, (0, 1, 1))
    figure = show_detection(image, reconstruction, gaussian_filter((image - reconstruction) ** 2, (0, 4, 4)), mask[None], threshold=0.01)
    figure.savefig(tmp_path/'figure.png', dpi=100)
    assert (tmp_path/'figure.png').stat().st_size < 200_000

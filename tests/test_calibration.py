"Calibration on normal images alone: promised rates are kept, odd parts are named, nothing fails open."
import math

import pytest
import torch

from recon_ad.calibration import PlaceStatistics, false_alarm_interval, robust_threshold, stand_alone, threshold

USUAL = torch.tensor([5., 6., 6., 7., 7., 8., 8., 9., 10., 11.])


def lots(n, trials, generator, fresh=40):
    "Observed less promised rate of false alarms, for each trial, and the promised rate."
    excess = []
    for _ in range(trials):
        images = torch.rand(n + fresh, 16, 32, generator=generator) ** 2
        statistics = PlaceStatistics(sigma=4.0)
        statistics.fit_batch(images[:n])
        judged = [statistics(image[None], without=image[None]).amax() for image in images[:n]]
        value, rate, *_ = robust_threshold(torch.stack(judged), 0.15)
        excess.append((statistics(images[n:]).amax((1, 2)) > value).double().mean() - rate)
    return torch.stack(excess), rate


@pytest.mark.parametrize("first", range(3, 101, 14))
def test_the_promised_rate_holds_for_every_number_of_held_out_images(first):
    generator = torch.Generator().manual_seed(first)
    results = [lots(n, 4, generator) for n in range(first, first + 14)]
    excess = torch.cat([found for found, _ in results])
    promised = sum(rate for _, rate in results) / len(results)
    error = excess.std() / len(excess) ** 0.5
    assert excess.mean() < 3 * error                     # one false failure in about 740 seeds, and the seed is fixed
    assert excess.mean() + promised > 0.4 * promised     # an upper bound, but not an idle one


@pytest.mark.parametrize("n", [5, 11, 17, 30])
def test_no_single_number_of_images_breaks_the_promise(n):
    excess, _ = lots(n, 40, torch.Generator().manual_seed(n), fresh=20)
    assert excess.mean() < 3 * excess.std() / len(excess) ** 0.5


@pytest.mark.parametrize("n", [3, 4, 5, 30])
def test_a_new_image_is_judged_as_the_last_held_out_one_was(n):
    maps = torch.rand(n, 16, 32, generator=torch.Generator().manual_seed(n))
    statistics = PlaceStatistics()
    statistics.fit_batch(maps)
    assert torch.equal(statistics(maps[-1:]), statistics(maps[-1:], without=maps[-1:]))


def test_odd_parts_are_named_and_do_not_set_the_threshold():
    scores = torch.cat((USUAL, torch.tensor([443., 695.])))
    assert threshold(scores, 0.05)[0] == 695
    found = robust_threshold(scores, 0.05)
    assert found.value == 11 and found.set_by == [9] and list(found.alone) == [11, 10]
    assert found.alone[11] == pytest.approx(695 / 8)
    assert found.false_alarm_rate == pytest.approx(3 / 13)   # the odd ones count as false alarms


def test_a_kind_of_part_is_no_exception_and_few_scores_name_nobody():
    assert stand_alone(torch.cat((USUAL, USUAL * 50))) == {}
    assert stand_alone(torch.tensor([1., 1., 1., 100.])) == {}


@pytest.mark.parametrize("log_spread, cost", [(0.8, 0.0), (1.2, 0.003)])
def test_setting_parts_aside_costs_next_to_nothing_with_heavy_tails(log_spread, cost):
    generator = torch.Generator().manual_seed(0)
    excess, aside = [], 0
    for _ in range(2500):
        drawn = torch.randn(80, generator=generator).mul(log_spread).exp()
        found = robust_threshold(drawn[:30], 0.05)
        aside += bool(found.alone)
        excess.append((drawn[30:] > found.value).double().mean() - found.false_alarm_rate)
    excess = torch.stack(excess)
    assert aside                                         # the rule was at work
    assert excess.mean() < cost + 3 * excess.std() / len(excess) ** 0.5


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", [threshold, robust_threshold])
def test_scores_that_are_not_finite_are_refused_by_place(wrong, rule):
    with pytest.raises(ValueError, match=r"must be finite, got .* at held-out image \[1\]"):
        rule(torch.tensor([1., wrong, 2.]))


@pytest.mark.parametrize("held_out, rank", [(5, 1), (30, 2), (30, 30)])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_true_share_lies_in_the_interval_as_often_as_stated(held_out, rank, level):
    generator = torch.Generator().manual_seed(held_out + rank)
    drawn = torch.rand(20_000, held_out, generator=generator, dtype=torch.float64).sort(descending=True).values
    found, share = false_alarm_interval(held_out, rank, level), 1 - drawn[:, rank - 1]
    assert share.mean().item() == pytest.approx(found.expected, abs=3e-3)
    beyond = [(share < found.low).double().mean().item(), (share > found.high).double().mean().item()]
    assert beyond == pytest.approx([(1 - level) / 2] * 2, abs=0.013)   # four standard errors of 20 000 draws at a half


def test_the_interval_of_the_largest_score_is_worked_by_hand():
    found = false_alarm_interval(9, 1)
    assert (found.expected, found.low, found.high) == pytest.approx((0.1, 1 - 0.95 ** (1 / 9), 1 - 0.05 ** (1 / 9)))


@pytest.mark.parametrize("held_out, rank", [(0, 1), (5, 0), (5, 6)])
def test_a_rank_that_no_score_has_is_refused(held_out, rank):
    with pytest.raises(ValueError, match="rank must be in 1 to"): false_alarm_interval(held_out, rank)

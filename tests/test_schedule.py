"""Schedules: ends, joints and monotony."""

import pytest

from instag import schedule


def test_position_rate_is_log_linear_between_its_ends_and_constant_outside():
    assert schedule.position_rate(0) == pytest.approx(1.6e-4)
    assert schedule.position_rate(45_000) == schedule.position_rate(60_000) == pytest.approx(1.6e-6)
    assert schedule.position_rate(22_500) == pytest.approx((1.6e-4 * 1.6e-6) ** 0.5)
    ratios = [schedule.position_rate(s + 1000) / schedule.position_rate(s) for s in range(0, 40_000, 5000)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


@pytest.mark.parametrize(("step", "degree"), [(1, 0), (999, 0), (1000, 1), (1999, 1), (2000, 2), (9000, 2)])
def test_sh_degree_rises_at_multiples_of_the_interval(step, degree):
    assert schedule.sh_degree(step, maximum=2) == degree
    assert schedule.sh_degree(step, maximum=1) == min(degree, 1)


def test_adaptation_holds_the_field_back_through_the_warm_up_and_then_decays_over_the_whole_stage():
    assert schedule.adaptation_factor(1, 10_000) == schedule.adaptation_factor(3000, 10_000) == 0.1
    assert schedule.adaptation_factor(3001, 10_000) == pytest.approx(0.5**0.3001)
    assert schedule.adaptation_factor(10_000, 10_000) == pytest.approx(0.5)
    assert schedule.adaptation_factor(10_000, 10_000, decay=schedule.FIELD_DECAY_LONG) == pytest.approx(0.1)


def test_rates_settle_over_the_last_share_only():
    assert [schedule.settling_factor(step, 100, 0.0) for step in (1, 50, 100)] == [1, 1, 1]
    assert [schedule.settling_factor(step, 100, 0.4) for step in (1, 60, 80, 99, 100)] == pytest.approx(
        [1, 1, 0.5, schedule.SETTLED, schedule.SETTLED]
    )


def test_pretraining_decays_to_a_half_then_drops_to_the_late_curve():
    total, late_steps = 150_000, 50_000
    late = total - late_steps
    assert schedule.pretraining_factor(0, total, late_steps) == 1
    assert schedule.pretraining_factor(late - 1, total, late_steps) == pytest.approx(0.5, rel=1e-4)
    assert schedule.pretraining_factor(late, total, late_steps) == pytest.approx(0.1 ** (2 / 3))
    assert schedule.pretraining_factor(total, total, late_steps) == pytest.approx(0.1)


def test_moving_average_forgets_fast_at_first_and_is_bounded():
    decays = [schedule.ema_decay(n) for n in range(3000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == schedule.EMA_LIMIT

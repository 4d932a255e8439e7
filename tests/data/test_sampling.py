import numpy as np

from instag.data.sampling import FrameSampler, FrameStatistics, face_curriculum, mouth_curriculum

FRAMES = 50


def made_statistics(mouth_pixels=400):
    t = np.linspace(0, 1, FRAMES)
    return FrameStatistics(
        inner_lip_height=(20 * t).astype(int),
        blink=2 * t,
        jaw=5 * t,
        mouth_pixels=np.full(FRAMES, mouth_pixels),
        size=512,
    )


def sampler(curriculum, seed=0):
    return FrameSampler(np.arange(100, 100 + FRAMES), curriculum, np.random.default_rng(seed))


def test_every_frame_comes_once_a_round():
    drawn = sampler(None)
    first = [drawn.next(step)[0] for step in range(FRAMES)]
    second = drawn.next(0, FRAMES)
    assert sorted(first) == sorted(second) == list(range(100, 100 + FRAMES))
    assert first != second


def test_face_goes_from_closed_to_open_lips():
    statistics = made_statistics()
    distance = face_curriculum(statistics, steps=1000, warmup=1000, interval=10)
    early, late = distance(0), distance(990)
    lips = statistics.inner_lip_height
    assert lips[early == 0].max() < 15 and lips[late == 0].min() > 8
    assert distance(5) is None and distance(1000) is None


def test_face_goes_from_open_to_closed_eyes_after_warmup():
    statistics = made_statistics()
    distance = face_curriculum(statistics, steps=1000, warmup=0, interval=1)
    assert statistics.blink[distance(0) == 0].max() <= 2 * 0.4
    assert statistics.blink[distance(990) == 0].min() >= 2 * (0.99 - 0.6)


def test_mouth_starts_wide_open():
    statistics = made_statistics()
    distance = mouth_curriculum(statistics, steps=100, warmup=30, interval=5)
    top = np.percentile(np.clip(statistics.jaw, 0, np.percentile(statistics.jaw, 95)), 75)
    assert statistics.jaw[distance(3) == 0].min() >= top
    assert (distance(31) == 0).all()  # between the curriculum's steps any visible mouth will do
    assert statistics.jaw[distance(95) == 0].max() <= top


def test_frames_without_a_mouth_are_refused():
    statistics = made_statistics()
    statistics.mouth_pixels[10:] = 0
    draws = sampler(mouth_curriculum(statistics, steps=100, warmup=0, interval=5))
    assert max(draws.next(7, 40)) < 110


def test_nothing_fits_and_the_nearest_frame_is_taken():
    statistics = made_statistics(mouth_pixels=0)  # the reference loops for ever here
    draws = sampler(mouth_curriculum(statistics, steps=100, warmup=30, interval=5))
    chosen = draws.next(3)[0] - 100
    top = np.percentile(np.clip(statistics.jaw, 0, np.percentile(statistics.jaw, 95)), 75)
    assert statistics.jaw[chosen] >= top


def test_state_continues_exactly():
    draws = sampler(None)
    draws.next(0, 17)
    state, generator = draws.state(), draws.generator.bit_generator.state
    expected = draws.next(0, 60)
    again = sampler(None, seed=9)
    again.restore(state)
    again.generator.bit_generator.state = generator
    assert again.next(0, 60) == expected

"""The invented language and its voice: one lexicon for everybody, real pauses, audio that can be learned from."""

import numpy as np
import pytest

from instag.data.layout import SAMPLE_RATE
from instag.errors import InstagError
from instag.synthetic.phonemes import PAUSE, PAUSE_SECONDS, PHONEMES, WORDS, lexicon, speak
from instag.synthetic.style import draw_style
from instag.synthetic.voice import FLOOR, PEAK, synthesize


def test_every_seed_speaks_words_of_the_one_lexicon():
    words = set(lexicon())
    assert len(words) == WORDS and set("".join(words)) <= set(PHONEMES) - {PAUSE}
    for seed in range(5):
        sentences = speak(seed, 20, rate=1).sentences
        assert {word for sentence in sentences for word in sentence} <= words


def test_another_seed_gives_unseen_sentences_and_another_language_unseen_words():
    first, second = (set(speak(seed, 60, rate=1).sentences) for seed in (1, 2))
    assert first.isdisjoint(second)
    assert set(lexicon(0)) != set(lexicon(1))


def test_sounds_join_without_holes_and_pauses_stand_between_sentences():
    utterance = speak(3, 30, rate=1.1)
    starts = np.array([sound.start for sound in utterance.sounds])
    ends = starts + [sound.seconds for sound in utterance.sounds]
    np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-9)
    assert starts[0] == 0 and ends[-1] >= 30
    pauses = [sound.seconds for sound in utterance.sounds[1:-1] if sound.symbol == PAUSE]
    assert len(pauses) >= len(utterance.sentences) - 1
    assert min(pauses) >= PAUSE_SECONDS[0]


def test_a_length_that_is_not_positive_is_refused():
    with pytest.raises(InstagError, match="seconds is 0"):
        speak(0, 0, rate=1)


def test_the_voice_is_loud_in_speech_and_nearly_silent_but_never_zero_in_pauses():
    utterance, style = speak(5, 8, rate=1), draw_style(5)
    audio = synthesize(utterance.sounds, style, 8 * SAMPLE_RATE, seed=5)
    assert audio.dtype == np.float32 and audio.shape == (8 * SAMPLE_RATE,)
    assert np.abs(audio).max() == pytest.approx(PEAK, abs=1e-3)

    def level(sound):
        middle = sound.start + sound.seconds / 2
        return np.std(audio[int((middle - 0.02) * SAMPLE_RATE) : int((middle + 0.02) * SAMPLE_RATE)])

    inside = [sound for sound in utterance.sounds if sound.start + sound.seconds < 8]
    quiet = np.array([level(sound) for sound in inside if sound.symbol == PAUSE])
    vowels = np.array([level(sound) for sound in inside if sound.symbol in "aeiou"])
    assert vowels.min() > 20 * quiet.max()
    assert quiet.min() > 0.1 * FLOOR


def test_formants_of_the_open_vowel_stand_in_the_spectrum():
    from instag.synthetic.phonemes import Sound

    style = draw_style(0)
    audio = synthesize((Sound("a", 0.0, 1.0),), style, SAMPLE_RATE, seed=0)
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    hertz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    first, second, third = (np.array(PHONEMES["a"].formants) * style.tract).tolist()

    def band(centre):
        return spectrum[np.abs(hertz - centre) < 150].mean()

    assert band(first) > 5 * band((second + third) / 2)
    assert band(second) > 5 * band((second + third) / 2)

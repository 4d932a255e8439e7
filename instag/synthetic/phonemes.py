"""A small invented language: phonemes, a nonsense lexicon, and sentences with real pauses between them.

Every speaker shares the inventory and the lexicon, so a second take holds unseen sentences of the same words, and
two speakers can say the same sentence. Values by ear and eye from textbook formants and visemes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from instag.errors import InstagError
from instag.synthetic.seeds import generator

Kind = Literal["vowel", "stop", "nasal", "fricative", "pause"]
PAUSE = "_"
WORDS = 40  # size of the lexicon
SENTENCE_WORDS = (3, 7)  # at least, fewer than
PAUSE_SECONDS = (0.75, 1.1)  # between sentences: the mouth rests, closed, for at least 0.4 s of it
START_SECONDS = 0.5  # pause before the first sentence
DURATION_SPREAD = (0.85, 1.25)  # per phoneme
CODA_CHANCE, CODA_SECONDS, CODAS = 0.35, 0.08, "nslmt"


class Phoneme(NamedTuple):
    """Targets of one sound. Articulation 0..1; frequencies in Hz; voicing and frication are amplitudes."""

    kind: Kind
    seconds: float
    jaw: float = 0.0
    upper: float = 0.0
    lower: float = 0.0
    wide: float = 0.0
    round: float = 0.0
    seal: float = 0.0
    tuck: float = 0.0
    tongue: float = 0.0
    formants: tuple[float, float, float] = (500, 1500, 2500)
    voicing: float = 0.0
    frication: float = 0.0
    noise_centre: float = 3000
    noise_width: float = 1000


def _vowel(seconds, jaw, upper, lower, wide, round_, tongue, formants, voicing=1.0) -> Phoneme:
    return Phoneme("vowel", seconds, jaw, upper, lower, wide, round_, 0, 0, tongue, formants, voicing)


def _lip_stop(kind: Kind, seconds, jaw, formants, voicing, frication=0.0) -> Phoneme:
    return Phoneme(kind, seconds, jaw, seal=1, formants=formants, voicing=voicing, frication=frication,
                   noise_centre=900, noise_width=700)  # fmt: skip


def _labiodental(seconds, formants, voicing, frication) -> Phoneme:
    return Phoneme("fricative", seconds, 0.12, 0.2, 0, 0.1, 0, 0.35, 1, 0, formants, voicing, frication, 5500, 4000)


def _tip(kind: Kind, seconds, jaw, formants, voicing, frication=0.0, centre=3000.0) -> Phoneme:
    return Phoneme(kind, seconds, jaw, 0.08, 0.15, 0.2, 0, 0, 0, 1, formants, voicing, frication, centre, 2000)


def _sibilant(seconds, formants, voicing, frication) -> Phoneme:
    return Phoneme("fricative", seconds, 0.08, 0.12, 0.22, 0.5, 0, 0, 0, 0.6, formants, voicing, frication, 5800, 2200)


def _velar(seconds, formants, voicing, frication) -> Phoneme:
    return Phoneme("stop", seconds, 0.3, 0.05, 0.12, 0, 0, 0, 0, 0.1, formants, voicing, frication, 2000, 1000)


PHONEMES: dict[str, Phoneme] = {
    "a": _vowel(0.13, 0.9, 0.15, 0.25, 0.1, 0, 0, (750, 1250, 2550)),
    "e": _vowel(0.11, 0.5, 0.15, 0.30, 0.6, 0, 0.3, (520, 1850, 2550)),
    "i": _vowel(0.11, 0.2, 0.15, 0.30, 1, 0, 0.5, (300, 2250, 3000)),
    "o": _vowel(0.12, 0.5, 0.05, 0.15, 0, 0.8, 0, (480, 900, 2450)),
    "u": _vowel(0.11, 0.18, 0.05, 0.12, 0, 1, 0, (320, 780, 2300)),
    "@": _vowel(0.07, 0.35, 0.08, 0.15, 0, 0, 0, (500, 1450, 2500), 0.9),
    "l": _vowel(0.07, 0.35, 0.1, 0.2, 0.2, 0, 1, (380, 1150, 2750), 0.8),
    "r": _vowel(0.07, 0.25, 0.05, 0.12, 0, 0.45, 0.4, (380, 1250, 1650), 0.8),
    "w": _vowel(0.07, 0.12, 0.03, 0.08, 0, 1, 0, (310, 680, 2250), 0.8),
    "p": _lip_stop("stop", 0.09, 0.1, (300, 900, 2300), 0, 0.5),
    "b": _lip_stop("stop", 0.08, 0.1, (250, 900, 2300), 0.35, 0.3),
    "m": _lip_stop("nasal", 0.08, 0.12, (260, 1000, 2200), 0.6),
    "f": _labiodental(0.10, (300, 1400, 2500), 0, 0.35),
    "v": _labiodental(0.07, (280, 1400, 2500), 0.6, 0.18),
    "t": _tip("stop", 0.08, 0.16, (300, 1750, 2650), 0, 0.6, 4200),
    "d": _tip("stop", 0.07, 0.18, (280, 1750, 2650), 0.35, 0.4, 3800),
    "n": _tip("nasal", 0.07, 0.2, (270, 1650, 2500), 0.6),
    "s": _sibilant(0.11, (300, 1750, 2600), 0, 0.7),
    "z": _sibilant(0.09, (280, 1750, 2600), 0.6, 0.35),
    "S": Phoneme("fricative", 0.11, 0.12, 0.12, 0.2, 0, 0.6, 0, 0, 0.4, (300, 1800, 2500), 0, 0.7, 2900, 1300),
    "k": _velar(0.09, (300, 1600, 2200), 0, 0.55),
    "g": _velar(0.08, (270, 1600, 2200), 0.35, 0.35),
    "h": Phoneme("fricative", 0.06, 0.4, 0.08, 0.15, formants=(550, 1500, 2500), voicing=0.1, frication=0.35,
                 noise_centre=1500, noise_width=2500),
    PAUSE: Phoneme("pause", 0.0, seal=1),
}  # fmt: skip
ONSETS, NUCLEI = "pbmfvtdnszSkglrwh", "aeiou@"


class Sound(NamedTuple):
    """One phoneme of a schedule."""

    symbol: str
    start: float  # s
    seconds: float


class Utterance(NamedTuple):
    """What is said: the sounds in order, without holes, and the sentences as tuples of words."""

    sounds: tuple[Sound, ...]
    sentences: tuple[tuple[str, ...], ...]


def lexicon(language: int = 0) -> tuple[str, ...]:
    """Return the words of a language, one character a phoneme: one to three syllables each. No speaker changes it."""
    random = generator("lexicon", language)
    words: dict[str, None] = {}
    while len(words) < WORDS:
        syllables = int(random.integers(1, 4))
        word = "".join(random.choice(list(ONSETS)) + random.choice(list(NUCLEI)) for _ in range(syllables))
        words[word + (random.choice(list(CODAS)) if random.random() < CODA_CHANCE else "")] = None
    return tuple(words)


def speak(sentence_seed: int, seconds: float, rate: float, language: int = 0) -> Utterance:
    """Return sentences that fill `seconds`, drawn from the lexicon by the seed; the last one may be cut short.

    Raises:
        InstagError: seconds is not positive.
    """
    if not seconds > 0:
        raise InstagError(f"seconds is {seconds}: ask for a positive length")
    random, words = generator("sentences", language, sentence_seed), lexicon(language)
    sounds, sentences = [Sound(PAUSE, 0.0, START_SECONDS)], []
    while (start := _end(sounds)) < seconds:
        sentence = tuple(words[i] for i in random.integers(len(words), size=random.integers(*SENTENCE_WORDS)))
        sentences.append(sentence)
        for symbol in "".join(sentence):
            length = PHONEMES[symbol].seconds / rate * random.uniform(*DURATION_SPREAD)
            sounds.append(Sound(symbol, start, length))
            start += length
        sounds.append(Sound(PAUSE, start, random.uniform(*PAUSE_SECONDS)))
    return Utterance(tuple(s for s in sounds if s.start < seconds), tuple(sentences))


def _end(sounds: list[Sound]) -> float:
    return sounds[-1].start + sounds[-1].seconds

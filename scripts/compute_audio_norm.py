"""Compute the constants of `instag/audio/norm.json` from a folder of speech clips.

    python scripts/compute_audio_norm.py ../shared/clips

made the shipped file on 2026-11-21 from the English clips of `pretrain/` (those marked "en" in MANIFEST.json; none of
`adapt/`, so that adaptation tests stay unseen), at most 30 s of each: 18 clips, 219 s. Cepstra and log-mel bands give
the corpus priors, every clip counting alike; with them the features of both kinds of normalisation give mean and
deviation of each dimension, every second counting alike.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from instag.audio import mel
from instag.audio.acoustic_model import load_acoustic_model
from instag.audio.cepstra import cepstra
from instag.audio.features import prepare_samples
from instag.audio.io import read_audio
from instag.audio.norm import CONSTANTS_FILE, MODES, FeatureNorm
from instag.audio.phone_mel import mel_only, phone_mel
from instag.data.layout import SAMPLE_RATE

SECONDS_PER_CLIP = 30
QUIET_PERCENTILE = 20  # frames whose energy is below it do not count for the cepstral prior
DIGITS = 6


def main() -> None:
    """Read the clips, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="folder with MANIFEST.json and pretrain/")
    parser.add_argument("--out", type=Path, default=CONSTANTS_FILE)
    arguments = parser.parse_args()
    names = english_clips(arguments.clips)
    sounds = [prepare_samples(read_audio(arguments.clips / name)[: SECONDS_PER_CLIP * SAMPLE_RATE]) for name in names]
    norms = compute_norms(sounds)
    seconds = sum(map(len, sounds)) / SAMPLE_RATE
    arguments.out.write_text(to_json(norms), encoding="utf-8")
    print(f"{arguments.out}: {len(sounds)} clips, {seconds:.0f} s")


def to_json(norms: dict[str, dict[str, FeatureNorm]]) -> str:
    """The text of norm.json, one line for each norm."""
    extractors = []
    for name, modes in norms.items():
        lines = [f"    {json.dumps(mode)}: {norm.to_json()}" for mode, norm in modes.items()]
        extractors.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(extractors) + "\n}\n"


def english_clips(folder: Path) -> list[str]:
    """Names below the folder of the pre-training clips whose language is English, sorted."""
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    return sorted(
        clip["file"]
        for clip in manifest["clips"]
        if clip["file"].startswith("pretrain/") and clip["language"].startswith("en")
    )


def compute_norms(sounds: list[np.ndarray]) -> dict[str, dict[str, FeatureNorm]]:
    """Norms of `phone-mel` and `mel`, each in both kinds, from prepared samples."""
    cmn_prior = np.mean([_loud_mean(cepstra(sound)) for sound in sounds], axis=0)
    bands = [mel.log_mel(sound) for sound in sounds]
    mel_mean = np.mean([clip.mean(axis=0) for clip in bands], axis=0)
    mel_std = np.sqrt(np.mean([clip.var(axis=0) for clip in bands], axis=0))
    model = load_acoustic_model()
    norms: dict[str, dict[str, FeatureNorm]] = {"phone-mel": {}, "mel": {}}
    for mode in MODES:
        start = replace(
            FeatureNorm.identity("phone-mel", mode),
            cmn_prior=_numbers(cmn_prior),
            mel_mean=_numbers(mel_mean),
            mel_std=_numbers(mel_std),
        )
        norms["phone-mel"][mode] = _standardised(start, [phone_mel(sound, start, model) for sound in sounds])
        start = replace(FeatureNorm.identity("mel", mode), mel_mean=start.mel_mean, mel_std=start.mel_std)
        norms["mel"][mode] = _standardised(start, [mel_only(sound, start) for sound in sounds])
    return norms


def _standardised(norm: FeatureNorm, features: list[np.ndarray]) -> FeatureNorm:
    steps = np.concatenate(features)
    return replace(norm, mean=_numbers(steps.mean(axis=0)), std=_numbers(steps.std(axis=0)))


def _loud_mean(frames: np.ndarray) -> np.ndarray:  # [J, 13] -> [13]
    energy = frames[:, 0]
    return frames[energy > np.percentile(energy, QUIET_PERCENTILE)].mean(axis=0)


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in values)


if __name__ == "__main__":
    main()

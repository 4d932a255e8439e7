"""Extractor table, feature files, windows."""

import numpy as np
import pytest
import torch

from instag.data.audio import (
    EXTRACTORS,
    WINDOW_BEFORE,
    WINDOW_FRAMES,
    audio_windows,
    window_table,
    find_features,
    get_extractor,
    load_features,
)
from instag.errors import DataError

# METHOD.md section 2: shape of one frame on disk and of its window.
SHAPES = {
    "deepspeech": ((16, 29), (8, 29, 16)),
    "esperanto": ((16, 44), (8, 44, 16)),
    "hubert": ((2, 1024), (8, 1024, 2)),
    "ave": ((512, 1), (8, 1, 512)),
    "phone-mel": ((16, 74), (8, 74, 16)),
    "mel": ((16, 32), (8, 32, 16)),
}


def made(name: str, frames: int = 11) -> np.ndarray:
    shape = (frames, *get_extractor(name).frame_shape)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_the_table_is_that_of_the_method():
    assert set(EXTRACTORS) == set(SHAPES)
    for name, (frame, window) in SHAPES.items():
        assert get_extractor(name).frame_shape == frame
        assert get_extractor(name).window_shape == window
    files = [file for kind in EXTRACTORS.values() for file in kind.files]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("name", SHAPES)
def test_features_survive_the_disk_and_become_windows(name, tmp_path):
    features = made(name)
    np.save(tmp_path / get_extractor(name).files[-1], features.astype(np.float64))
    read = load_features(tmp_path, name)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, features)
    windows = audio_windows(read, [0, 5, 10])
    assert windows.shape == (3, *SHAPES[name][1])
    assert windows.dtype == torch.float32


def test_deepspeech_goes_by_either_name(tmp_path):
    np.save(tmp_path / "aud_ds.npy", made("deepspeech"))
    assert find_features(tmp_path, "deepspeech").name == "aud_ds.npy"
    np.save(tmp_path / "aud.npy", made("deepspeech"))
    assert find_features(tmp_path, "deepspeech").name == "aud.npy"


def test_an_impulse_stands_in_the_right_windows():
    features = np.zeros((20, 16, 74), np.float32)
    features[9, 3, 70] = 1.0
    windows = audio_windows(features, range(20))  # [20, 8, 74, 16]
    frame, position, channel, step = (index.tolist() for index in torch.nonzero(windows, as_tuple=True))
    # Window t holds frames t-4 .. t+3, so frame 9 stands at place 9 - (t - 4) of the windows t = 6 .. 13.
    assert frame == list(range(6, 14))
    assert position == [9 - (t - WINDOW_BEFORE) for t in frame]
    assert set(channel) == {70} and set(step) == {3}


def test_outside_the_sound_is_zero_and_inside_untouched():
    features = made("mel", frames=3) + 10
    windows = audio_windows(features, [0, 2, 40, -40])
    inside = windows.abs().sum(dim=(2, 3)) > 0
    assert inside.tolist() == [
        [False] * 4 + [True] * 3 + [False],
        [False] * 2 + [True] * 3 + [False] * 3,
        [False] * 8,
        [False] * 8,
    ]
    np.testing.assert_array_equal(windows[0, 4].T, features[0])


def test_infinity_elsewhere_does_not_leak_into_the_padding():
    features = made("mel", frames=2)
    features[0] = np.inf
    assert torch.isfinite(audio_windows(features, [5])).all()


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_any_kind_of_input_gives_the_same_and_changes_nothing(convert):
    features = made("phone-mel")
    kept = features.copy()
    windows = audio_windows(torch.from_numpy(features), convert([0, 7]))
    torch.testing.assert_close(windows, audio_windows(features, convert([0, 7])))
    np.testing.assert_array_equal(features, kept)
    assert windows.is_contiguous() and windows.shape[1] == WINDOW_FRAMES
    torch.testing.assert_close(audio_windows(features, 7), windows[1:])


@pytest.mark.parametrize("shape", [(11, 74, 16), (11, 16, 32), (16, 74), (0, 16, 74), (2, 11, 16, 74)])
def test_a_wrong_shape_is_named(shape, tmp_path):
    np.save(tmp_path / "aud_pm.npy", np.zeros(shape, np.float32))
    with pytest.raises(DataError) as error:
        load_features(tmp_path / "aud_pm.npy", "phone-mel")
    assert "aud_pm.npy" in str(error.value)
    assert "[T, 16, 74]" in str(error.value) and str(list(shape)) in str(error.value)
    assert "\n" not in str(error.value)


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(DataError, match="aud_mel.npy"):
        load_features(tmp_path, "mel")
    path = tmp_path / "x.npy"
    with pytest.raises(DataError, match="no such file"):
        load_features(path, "mel")
    for content in (b"", b"RIFF....WAVE", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npy: not a readable"):
            load_features(path, "mel")
    np.save(path, np.array([{"code": "run"}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy"):
        load_features(path, "mel")
    features = made("mel")
    features[4, 2, 1] = np.nan
    np.save(path, features)
    with pytest.raises(DataError, match="frame 4"):
        load_features(path, "mel")
    np.save(path, np.zeros((3, 16, 32), complex))
    with pytest.raises(DataError, match="complex128"):
        load_features(path, "mel")
    with pytest.raises(DataError, match="wav2vec.*phone-mel"):
        load_features(path, "wav2vec")


@pytest.mark.parametrize("rows", [12, 9, 15])
def test_the_table_of_windows_is_every_window(rows):
    """Also where the features end before the clip or after it."""
    features = torch.randn(rows, 16, 74, generator=torch.Generator().manual_seed(0))
    table = window_table(features, 12)
    torch.testing.assert_close(table, audio_windows(features, range(12)), rtol=0, atol=0)
    assert table[torch.tensor([3, 0])].is_contiguous()

"""Sync-C and Sync-D: the network's shapes, safe loading, and that shifted sound shows as a shifted best offset."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from instag.audio.mfcc import mel_triangles, mfcc
from instag.data.dataset import SubjectDataset
from instag.errors import DataError
from instag.metrics.evaluate import evaluate
from instag.metrics.landmarks import FaceTrack
from instag.metrics.syncnet import (
    CROP,
    LARGEST_OFFSET,
    PARTS,
    SyncNet,
    cut_out,
    face_boxes,
    load_syncnet,
    measure_sync,
    sync_scores,
)

RATE, SAMPLES = 16_000, 640  # of a picture's sound
PUBLISHED_SHAPES = {  # of syncnet_v2.model
    "netcnnaud.0.weight": (64, 1, 3, 3),
    "netcnnaud.4.weight": (192, 64, 3, 3),
    "netcnnaud.18.weight": (512, 256, 5, 4),
    "netfcaud.0.weight": (512, 512),
    "netfcaud.3.weight": (1024, 512),
    "netcnnlip.0.weight": (96, 3, 5, 7, 7),
    "netcnnlip.4.weight": (256, 96, 1, 5, 5),
    "netcnnlip.18.weight": (512, 256, 1, 6, 6),
    "netfclip.3.bias": (1024,),
}


def published_state():
    """Random weights under the published names, as old torch wrote them: without counters of batches."""
    theirs = {ours: name for name, ours in PARTS.items()}
    state = SyncNet().state_dict()
    named = {f"{theirs[name.partition('.')[0]]}.{name.partition('.')[2]}": t for name, t in state.items()}
    return {name: tensor for name, tensor in named.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("suffix", [".model", ".safetensors"])
def test_the_published_names_and_shapes_load(tmp_path, suffix):
    state = published_state()
    assert {name: tuple(state[name].shape) for name in PUBLISHED_SHAPES} == PUBLISHED_SHAPES
    path = tmp_path / f"syncnet_v2{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    network = load_syncnet(path)
    assert torch.equal(network.lips[0].weight, state["netcnnlip.0.weight"]) and not network.training
    assert network.embed_sound(torch.randn(3, 13, 20)).shape == (3, 1024)
    lips = network.embed_lips(torch.rand(6, 3, CROP, CROP) * 255)
    assert lips.shape == (2, 1024) and not torch.equal(lips[0], lips[1])


def test_other_files_are_refused(tmp_path):
    torch.save({"netcnnaud.0.weight": torch.zeros(2)}, tmp_path / "part.model")
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.model")
    torch.save({"netcnnaud": partial(print, "executed")}, tmp_path / "evil.model")
    for name, reason in (
        ("part", "not SyncNet's"),
        ("other", "not SyncNet's"),
        ("evil", "readable"),
        ("no", "readable"),
    ):
        with pytest.raises(DataError, match=reason) as error:
            load_syncnet(tmp_path / f"{name}.model")
        assert "\n" not in str(error.value)


# --- scores ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("late", [-15, -4, 0, 3, 15])
def test_the_best_offset_is_the_shift(late):
    sound = torch.randn(80, 16, generator=torch.Generator().manual_seed(0))
    scores = sync_scores(torch.roll(sound, late, 0), sound)
    assert scores.lag == late and abs(late) <= LARGEST_OFFSET
    assert scores.confidence > 1 and scores.distance < 3


def test_unrelated_embeddings_have_no_confidence():
    generator = torch.Generator().manual_seed(0)
    scores = sync_scores(torch.randn(200, 64, generator=generator), torch.randn(200, 64, generator=generator))
    assert scores.confidence < 1 and scores.distance > 8


class LoudAndBright(nn.Module):
    """Made by hand: lips are how bright their window is, sound is how loud its window is, over the range of both."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def embed_lips(self, pictures):
        bright = pictures.mean((1, 2, 3)) / 255
        return bright.unfold(0, 5, 1)

    def embed_sound(self, cepstra):
        loud = cepstra[:, 0].unflatten(1, (5, 4)).mean(2)
        return (loud - 5) / 10


@pytest.mark.parametrize("late", [-3, 0, 5])
def test_a_hand_made_network_finds_shifted_sound(late):
    count = 90
    level = np.random.default_rng(1).uniform(0.2, 1, count)
    pictures = [np.full((64, 64, 3), round(255 * x), np.uint8) for x in np.roll(level, late)]
    tone = np.sin(np.arange(count * SAMPLES) * 0.3)
    # log energy of 400 samples of a tone of that amplitude, brought to 5 + 10 level
    amplitude = np.exp((5 + 10 * np.repeat(level, SAMPLES)) / 2) / 32768 / 4
    track = FaceTrack(np.full((count, 478, 3), 256.0) + np.linspace(-90, 90, 478)[:, None], np.ones(count, bool))
    scores = measure_sync(LoudAndBright(), pictures, track, amplitude * tone, RATE)
    assert scores.lag == late and scores.confidence > 0.1


# --- pictures and sound -----------------------------------------------------------------------------------------------
def test_boxes_follow_the_face_and_bridge_gaps():
    mesh = np.zeros((40, 478, 3), np.float32)
    mesh[:, :, 0], mesh[:, :, 1] = np.linspace(156, 356, 478), np.linspace(206, 306, 478)
    found = np.ones(40, bool)
    mesh[10:13], found[10:13] = np.nan, False
    box = face_boxes(FaceTrack(mesh, found), 256)
    assert np.allclose(box, [128, 128 + 0.4 * 50, 1.4 * 50], atol=0.5)
    with pytest.raises(DataError, match="no face"):
        face_boxes(FaceTrack(mesh, np.zeros(40, bool)), 256)


def test_the_cut_is_the_box_in_bgr():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[30:70, 40:80] = (255, 128, 0)
    crop = cut_out(picture, np.array([60.0, 50.0, 20.0]))
    assert crop.shape == (CROP, CROP, 3) and np.array_equal(crop[100, 100], (0, 128, 255))
    assert (crop[4:-4, 4:-4] == (0, 128, 255)).mean() > 0.99
    assert np.array_equal(cut_out(picture, np.array([0.0, 0.0, 50.0]))[0, 0], (110, 110, 110))


def test_cepstra_count_and_scale():
    sound = 1000 * np.random.default_rng(0).standard_normal(RATE)
    cepstra = mfcc(sound, RATE)
    assert cepstra.shape == (99, 13)  # 1 + ceil((16000 - 400) / 160)
    louder = mfcc(10 * sound, RATE)
    assert np.allclose(louder[:, 0] - cepstra[:, 0], np.log(100))  # log energy
    assert np.allclose(louder[:, 1:], cepstra[:, 1:])  # the spectrum's form alone
    assert np.isfinite(mfcc(np.zeros(RATE), RATE)).all()
    assert mel_triangles(RATE).shape == (257, 26) and mel_triangles(RATE).max() == 1


# --- in the report ----------------------------------------------------------------------------------------------------
def some_faces(pictures):
    count = sum(1 for _ in pictures)
    mesh = np.random.default_rng(0).uniform(100, 400, (478, 3)).astype(np.float32)
    return FaceTrack(np.tile(mesh, (count, 1, 1)), np.ones(count, bool))


def test_figures_are_there_with_weights_and_absent_without(made_subject):
    with SubjectDataset.open(made_subject) as dataset:
        frames = range(48, 58)
        pictures = [dataset.picture(i).image for i in frames]
        measure = partial(evaluate, pictures, dataset, frames, track_faces=some_faces, progress=False)
        without, with_weights = measure(), measure(syncnet=SyncNet())
    assert not [name for name in without.metrics if name.startswith("sync_")]
    assert any("--syncnet" in note for note in without.notes)
    found = with_weights.metrics
    assert found["sync_d"] == pytest.approx(found["sync_d_truth"]) and found["sync_c"] >= 0
    assert isinstance(found["sync_lag"], int) and not any("Sync" in note for note in with_weights.notes)

"""Every kind of audio features from the subject folder to the avatar's frames, and what is refused."""

import numpy as np
import pytest

from instag.api import adapt_subject, load_avatar, synthesize_video
from instag.audio.norm import FeatureNorm
from instag.data.audio import EXTRACTORS
from instag.data.dataset import SubjectDataset
from instag.errors import InstagError
from instag.metrics.evaluate import check_same_conditions

FRAMES = 30
STEPS = 2
NORMALISED = ("phone-mel", "mel")  # those that leave a record beside them


def write_features(folder, name):
    kind = EXTRACTORS[name]
    values = np.random.default_rng(kind.width).standard_normal((FRAMES, *kind.frame_shape)).astype(np.float32)
    np.save(folder / kind.files[0], values)
    if name in NORMALISED:
        (folder / kind.norm_file).write_text(FeatureNorm.default(name).to_json())
    return folder / kind.files[0]


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_trains_synthesizes_and_is_checked(make_subject, tmp_path, name):
    subject = make_subject(FRAMES)
    features = write_features(subject, name)
    small = ["training.face.points=40", "training.mouth.points=30", "training.face.prior_from=null", "data.size=32"]
    lengths = [f"training.{stage}.iterations={STEPS}" for stage in ("face", "mouth", "fuse")]
    settings = [*small, *lengths, f"model.extractor={name}"]
    run = adapt_subject(subject, tmp_path / "run", "adapt", settings, "cpu", universal="none", progress=False).parent
    avatar = load_avatar(run, "cpu", name)
    assert avatar.model.extractor == name and (avatar.norm is not None) == (name in NORMALISED)
    frames = synthesize_video(run, features, tmp_path / "frames", device="cpu", progress=False)
    assert len(list(frames.glob("*.png"))) == FRAMES
    with SubjectDataset.open(subject, size=32, extractor=name) as dataset:
        check_same_conditions(avatar, dataset)

    other = "hubert" if name != "hubert" else "ave"
    with pytest.raises(InstagError, match=f"driven by {name} features"):
        load_avatar(run, "cpu", other)
    with pytest.raises(InstagError, match=name):
        synthesize_video(run, write_features(subject, other), tmp_path / "no", device="cpu", progress=False)
    assert not (tmp_path / "no").exists()

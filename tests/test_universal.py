"""The fields that ship: size, whose faces taught them, and whether the documented preset makes them."""

from importlib import resources

import pytest
import torch
import yaml

from instag.universal import find_universal, shipped

MAX_BYTES = 2_000_000
# MANIFEST.json of the research clips: their repositories are MIT or Apache-2.0; syn*: made by instag.synthetic
PERMISSIVE = {
    "hdtf_aoc", "hdtf_katiehill", "hdtf_markey", "hdtf_menendez", "latentsync1", "latentsync2", "latentsync3",
    "lr_andrew1", "lr_noem", "lr_politician25s", "lr_politician60s", "vretalk1",
    "syn11", "syn12", "syn13", "syn14", "syn15",
}  # fmt: skip
HELD_OUT = {"cnn2", "german20s", "trump10s"}  # what docs/model.md tests on


@pytest.fixture(scope="module")
def fields():
    return find_universal("shipped", "phone-mel")


def test_they_are_small_and_whole(fields):
    assert shipped("phone-mel").stat().st_size <= MAX_BYTES
    assert fields.face and fields.mouth
    assert all(torch.isfinite(v).all() for part in (fields.face, fields.mouth) for v in part.values())


def test_only_people_of_permissive_repositories_taught_them(fields):
    subjects = set(fields.provenance["subjects"])
    assert subjects <= PERMISSIVE
    assert not subjects & HELD_OUT


def test_the_documented_preset_makes_them(fields):
    preset = yaml.safe_load(resources.files("instag.configs").joinpath("pretrain_fast.yaml").read_text())

    def agree(wanted, made):
        return all(agree(v, made[k]) if isinstance(v, dict) else v == made[k] for k, v in wanted.items())

    assert agree(preset, fields.provenance["configuration"])

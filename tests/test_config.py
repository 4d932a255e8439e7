import pytest
import yaml

from instag.config import Config
from instag.config_io import apply_assignments, from_dict, load_config, preset_names, to_dict
from instag.errors import ConfigError


def test_round_trip_through_yaml():
    config = apply_assignments(Config(), ["training.face.iterations=7", "training.mouth.density=null"])
    assert config.training.face.iterations == 7
    assert config.training.mouth.density is None
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_every_preset_loads():
    assert "adapt" in preset_names()
    for name in preset_names():
        assert isinstance(load_config(name), Config)


def test_only_what_is_named_changes():
    config = load_config("adapt", ["training.mouth.density.start=3", "training.fuse.losses.lpips=1e-3"])
    assert config.training.mouth.density.gradient_threshold == 2e-4  # the mouth's default, not the face's
    assert config.training.fuse.losses.lpips == 1e-3
    assert config.training.face == Config().training.face


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.fase.iterations=3", "did you mean 'training.fuse'"),
        ("training.face.iteration=3", "did you mean 'training.face.iterations'"),
        ("training.face.iterations=many", "expected int"),
        ("training.face.iterations=true", "expected int"),
        ("training.face.iterations=null", "cannot be empty"),
        ("training.face.hair_ignored=[1, 2, 3]", "expected tuple"),
        ("model.hash_ranges=other", "hash_ranges"),
        ("training.face.iterations", "section.name=value"),
    ],
)
def test_bad_settings_name_the_key_and_the_remedy(assignment, message):
    with pytest.raises(ConfigError, match=message):
        apply_assignments(Config(), [assignment])


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no preset 'fast'"):
        load_config("fast")
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold sections"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")

"""What the stages share."""

from dataclasses import replace

from instag.config import StageConfig
from instag.training.stage import draw_patch_size


def test_patch_sizes_are_kept_for_some_steps_and_cover_their_range():
    config = replace(StageConfig(), lpips_patch=(64, 96), lpips_patch_steps=50)
    drawn = [draw_patch_size(config, step, 512, 3) for step in range(50_000)]
    assert all(len(set(drawn[i : i + 50])) == 1 for i in range(0, len(drawn), 50))
    assert set(drawn) == set(range(64, 97, 2))
    assert draw_patch_size(config, 60, 256, 3) == max(32, 2 * round(drawn[60] / 4))

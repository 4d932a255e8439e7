"""The paper's ablation tables as data: our row beside each published one, and the published figures.

Figures: Li et al., CVPR 2025, tables 2 and 5 to 11. Where our copy of the paper has lost a table's marks, the row is
identified by equal figures in another table, or by the text; rows that could not be identified are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Published metric -> the name of ours in a row's result, and whether more is better. SyncNet's confidence has no free
# substitute of the same meaning: the correlation of lip openings stands in for its direction.
METRICS = {
    "PSNR": ("psnr", True),
    "LPIPS": ("lpips", False),
    "SSIM": ("ssim", True),
    "LMD": ("lmd", False),
    "AUE-L": ("aue_lower", False),
    "Sync-C": ("lip_r", True),
    "MB": ("memory_mb", False),
}


@dataclass(frozen=True)
class PaperRow:
    """A line of a table: our row (a key of rows.ROWS), seconds of training video (None: the run's own), figures."""

    label: str
    row: str
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    against: int | None = None  # line that it is judged against; None: the table's


@dataclass(frozen=True)
class Table:
    """A table; directions are judged against the line numbered `against`."""

    number: int
    title: str
    lines: tuple[PaperRow, ...]
    against: int = -1


def _line(label: str, row: str, psnr: float, lpips: float, lmd: float, sync: float) -> PaperRow:
    return PaperRow(label, row, {"PSNR": psnr, "LPIPS": lpips, "LMD": lmd, "Sync-C": sync})


FULL = _line("full", "full", 28.86, 0.039, 3.167, 5.318)
TABLES = (
    Table(
        2,
        "Amount of training video (from scratch: the paper's TalkingGaussian)",
        tuple(
            PaperRow(f"{seconds} s{label}", row, {"PSNR": psnr, "AUE-L": aue, "Sync-C": sync}, seconds, against)
            for seconds, label, row, psnr, aue, sync, against in (
                (5, ", from scratch", "scratch", 28.321, 1.158, 3.556, 3),
                (10, ", from scratch", "scratch", 29.130, 1.069, 4.663, 4),
                (20, ", from scratch", "scratch", 29.536, 1.073, 4.776, 5),
                (5, "", "full", 28.863, 0.926, 5.318, None),
                (10, "", "full", 29.421, 0.881, 5.636, None),
                (20, "", "full", 30.352, 0.710, 5.764, None),
            )
        ),
        against=3,
    ),
    Table(
        5,
        "Components",
        (
            _line("no personalised fields", "no_fields", 28.66, 0.044, 3.734, 2.019),
            _line("no contrast (label uncertain)", "no_contrast", 28.76, 0.040, 3.239, 4.816),
            _line("neither aligner nor hook", "no_aligner_hook", 28.59, 0.041, 3.223, 5.124),
            _line("no hook", "no_hook", 28.69, 0.040, 3.274, 5.233),
            _line("no aligner", "no_aligner", 28.66, 0.040, 3.257, 5.086),
            FULL,
        ),
    ),
    Table(
        6,
        "Mouth",
        (
            _line("single branch", "single_branch", 28.59, 0.049, 3.233, 4.675),
            _line("two branches, no hook", "no_hook", 28.69, 0.040, 3.274, 5.233),
            FULL,
        ),
    ),
    Table(
        7,
        "Personalised field",
        (
            _line("neither structure nor motion", "no_fields", 28.67, 0.044, 3.734, 2.019),
            _line("structure only", "structure_only", 28.63, 0.045, 3.715, 2.312),
            _line("motion only", "motion_only", 28.59, 0.040, 3.228, 4.975),
            FULL,
        ),
    ),
    Table(
        8,
        "Motion aligner",
        (
            _line("neither", "no_aligner", 28.66, 0.040, 3.257, 5.086),
            _line("scale only", "scale_only", 28.68, 0.040, 3.211, 5.113),
            _line("offset only", "offset_only", 28.77, 0.040, 3.192, 5.229),
            FULL,
        ),
    ),
    Table(
        9,
        "Audio features (the paper's default is DeepSpeech, ours phone-mel)",
        tuple(
            PaperRow(
                label,
                f"extractor_{name}",
                {"PSNR": psnr, "LPIPS": lpips, "SSIM": ssim, "LMD": lmd, "AUE-L": aue, "Sync-C": sync},
            )
            for label, name, psnr, lpips, ssim, lmd, aue, sync in (
                ("HuBERT", "hubert", 29.00, 0.040, 0.861, 3.174, 1.031, 5.239),
                ("wav2vec 2.0", "esperanto", 28.89, 0.041, 0.867, 3.111, 0.924, 5.852),
                ("AVE", "ave", 28.83, 0.040, 0.852, 2.984, 0.742, 7.787),
                ("DeepSpeech", "deepspeech", 28.86, 0.039, 0.861, 3.167, 0.926, 5.318),
            )
        )
        + (PaperRow("mel", "extractor_mel"), PaperRow("phone-mel", "full")),
        against=3,
    ),
    Table(
        10,
        "GPU memory, peak",
        (
            *(PaperRow(f"pre-training, {k} videos", f"memory_{k}", {"MB": mb})
              for k, mb in ((1, 2200.0), (2, 2188.0), (3, 2194.0), (4, 2204.0), (5, 2270.0))),
            PaperRow("adaptation", "full", {"MB": 2214.0}),
        ),
    ),
    Table(
        11,
        "All of the training video, long mode",
        (
            PaperRow("from scratch (the paper's TalkingGaussian)", "long_scratch",
                     {"PSNR": 31.04, "LPIPS": 0.0267, "LMD": 3.001, "Sync-C": 6.005}),
            PaperRow("25,000 steps", "long_25k", {"PSNR": 31.15, "LPIPS": 0.0305, "LMD": 2.893, "Sync-C": 6.143}),
            PaperRow("10,000 steps", "long", {"PSNR": 31.37, "LPIPS": 0.0312, "LMD": 2.909, "Sync-C": 6.005}),
        ),
    ),
    Table(
        0,
        "Figures 8, 9, 11: geometry prior (the paper shows pictures, no figures)",
        (PaperRow("without the prior", "prior_off"), PaperRow("with the prior", "prior_on")),
    ),
)  # fmt: skip

"""The paper's ablation tables on a corpus of subjects: pre-train, adapt, render, measure, report.

    bash scripts/ablations.sh data output/ablations --subjects anna,ben
    bash scripts/ablations.sh data output/ablations --subjects anna,ben --tables 5,8 --seeds 0,1 --seconds 5
    bash scripts/ablations.sh data output/ablations --subjects anna=anna_take2 --rows full,scratch

CORPUS holds subjects (`instag process`); those that are not adapted to teach the universal fields. Every pre-training
and every row is a folder below OUTPUT with result.json. Called again, finished ones are kept and half-finished ones
continued, so a table may be filled over several calls and machines (--pack, --unpack). The report: OUTPUT/report.md.

"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from instag.errors import InstagError

EXIT_USER_ERROR = 2


def main() -> None:
    """Parse and run."""
    start = time.monotonic()
    flags = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        run(flags, start)
    except InstagError as error:
        parser().exit(EXIT_USER_ERROR, f"instag: {error}\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("corpus", type=Path, help="folder with one folder or .instag file per subject")
    out.add_argument("output", type=Path, help="where everything goes")
    what = out.add_argument_group("what")
    what.add_argument(
        "--subjects",
        type=names,
        required=True,
        metavar="A,B=B2",
        help="who is adapted to; NAME=OTHER tests on another take, and trains on the whole of NAME",
    )
    what.add_argument(
        "--pretrain", type=names, default=None, metavar="A,B", help="who is pre-trained on (default: all others)"
    )
    what.add_argument(
        "--tables",
        type=numbers,
        default=None,
        metavar="2,5,..",
        help="of the paper: 2, 5-11; 0 is the geometry prior (default: 5, unless --rows)",
    )
    what.add_argument(
        "--rows", type=names, default=[], metavar="full,..", help="single rows; a wrong one lists them all"
    )
    what.add_argument("--seeds", type=numbers, default=[0], metavar="0,1")
    what.add_argument(
        "--seconds", type=floats, default=[5.0], metavar="5,10", help="of training video (table 2 has its own)"
    )
    how = out.add_argument_group("how")
    how.add_argument("--preset", default="adapt_fast", help="of adaptation")
    how.add_argument("--pretrain-preset", default="pretrain")
    how.add_argument(
        "--pretrain-steps", type=int, default=None, help="iterations of each branch (default: 30,000 a video)"
    )
    how.add_argument(
        "--universal", default=None, metavar="shipped|FILE", help="ready fields, for rows of the full pre-training"
    )
    how.add_argument("--size", type=int, default=None, help="px of adaptation (default: as stored)")
    how.add_argument("--pretrain-size", type=int, default=None, help="px of pre-training (default: as stored)")
    how.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; may be repeated")
    machine = out.add_argument_group("machine")
    machine.add_argument(
        "--gpus", type=names, default=[""], metavar="0,1", help="numbers of GPUs; without, the CPU works"
    )
    machine.add_argument("--jobs-per-gpu", type=int, default=1)
    machine.add_argument(
        "--time-limit", type=float, default=None, metavar="S", help="stop after so many seconds; continue later"
    )
    machine.add_argument("--no-landmarks", action="store_true", help="leave face tracking to a later call without this")
    machine.add_argument("--no-training", action="store_true", help="only measure and report what is there")
    machine.add_argument("--pack", type=Path, metavar="FOLDER", help="copy results there as a few zip files")
    machine.add_argument("--unpack", type=Path, nargs="+", default=[], metavar="ZIP", help="start from packed results")
    return out  # fmt: skip


def names(text: str) -> list[str]:
    """Comma-separated names."""
    return [part for part in text.split(",") if part]


def numbers(text: str) -> list[int]:
    """Comma-separated whole numbers; `5-8` is a range."""
    out = []
    for part in names(text):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def floats(text: str) -> list[float]:
    """Comma-separated numbers."""
    return [float(part) for part in names(text)]


def run(flags: argparse.Namespace, start: float) -> None:
    """Everything that the options ask for."""
    from instag.api import find_subjects
    from instag.experiments.collect import pack_results, unpack_results
    from instag.experiments.frames import pillow
    from instag.experiments.jobs import run_job
    from instag.experiments.measure import measure_rows
    from instag.experiments.plan import Options, parse_subjects, plan, rows_of, subject_names
    from instag.experiments.pool import run_jobs
    from instag.experiments.report import write_report

    subjects = parse_subjects(flags.subjects)
    taken = {*subjects, *subjects.values()}
    tables = flags.tables if flags.tables is not None else [] if flags.rows else [5]
    options = Options(
        corpus=flags.corpus,
        output=flags.output,
        pretrain=tuple(flags.pretrain or [name for name in subject_names(flags.corpus) if name not in taken]),
        subjects=subjects,
        rows=rows_of(tables, flags.rows, flags.seconds),
        seeds=tuple(flags.seeds),
        preset=flags.preset,
        pretrain_preset=flags.pretrain_preset,
        pretrain_steps=flags.pretrain_steps,
        universal=flags.universal,
        size=flags.size,
        pretrain_size=flags.pretrain_size,
        assignments=tuple(flags.set),
    )
    pillow()  # what it lacks is said before hours of training
    unpack_results(flags.unpack, flags.output)
    left = 0
    if not flags.no_training:
        deadline = None if flags.time_limit is None else start + flags.time_limit
        outcome = run_jobs(plan(options), run_job, flags.gpus, flags.jobs_per_gpu, deadline)
        left = len(outcome.left) + len(outcome.failed)
        print(f"{len(outcome.done)} jobs done, {len(outcome.failed)} failed, {len(outcome.left)} left for another call")
    if not flags.no_landmarks:
        measure_rows(flags.output, lambda name: find_subjects(flags.corpus, [name])[0])
    print(write_report(flags.output))
    if flags.pack:
        for path in pack_results(flags.output, flags.pack):
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    if left:
        print(f"not complete: call again for the {left} jobs that are missing")


if __name__ == "__main__":
    main()

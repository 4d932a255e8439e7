"""From the options of a run to its jobs: which pre-trainings, which rows, on whom, with which seeds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from instag.api import find_subjects
from instag.config import Config
from instag.config_io import from_dict, load_config, to_dict
from instag.data.dataset import SubjectDataset
from instag.data.layout import FPS, PACK_SUFFIX
from instag.errors import DataError, InstagError
from instag.experiments.jobs import CONFIG, RESULT, UNIVERSAL
from instag.experiments.paper import TABLES
from instag.experiments.pool import Job
from instag.experiments.rows import MEMORY_ROWS, MEMORY_STEPS, ROWS, adaptation, pretraining
from instag.files import write_text
from instag.universal import find_universal

logger = logging.getLogger(__name__)
PRETRAIN, ADAPT = "pretrain", "rows"  # folders below the output


@dataclass(frozen=True)
class Options:
    """What a run is asked for.

    Attributes:
        corpus: folder of subjects.
        output: folder of the run.
        pretrain: names of the subjects that the universal fields learn from.
        subjects: name of each adaptation subject -> its other take that is tested, or its own name.
        rows: (row, seconds) to make; seconds None: all of the training video.
        seeds: of everything random.
        preset, pretrain_preset: configurations.
        pretrain_steps: iterations of each branch; None: as published, 30,000 a video.
        universal: fields that rows of the full pre-training start from instead: "shipped" or a file; None: made here.
        size, pretrain_size: px, None: as stored.
        assignments: `section.name=value`.
    """

    corpus: Path
    output: Path
    pretrain: tuple[str, ...]
    subjects: Mapping[str, str]
    rows: tuple[tuple[str, float | None], ...]
    seeds: tuple[int, ...] = (0,)
    preset: str = "adapt_fast"
    pretrain_preset: str = "pretrain"
    pretrain_steps: int | None = None
    universal: str | None = None
    size: int | None = None
    pretrain_size: int | None = None
    assignments: tuple[str, ...] = ()


def rows_of(tables: Sequence[int], names: Sequence[str], seconds: Sequence[float]) -> tuple:
    """(row, seconds) of some of the paper's tables and rows, each once; a line without seconds is made for all of them.

    Raises:
        InstagError: a table or row that does not exist.
    """
    known = {table.number: table for table in TABLES}
    wanted: dict[tuple[str, float | None], None] = {}
    for number in tables:
        if number not in known:
            raise InstagError(f"--tables {number}: choose of {', '.join(map(str, known))} (0: geometry prior)")
        for line in known[number].lines:
            for length in [line.seconds] if line.seconds is not None else seconds:
                wanted[_row(line.row, length)] = None
    for name in names:
        if name not in ROWS and name not in MEMORY_ROWS:
            raise InstagError(f"--rows {name}: choose of {', '.join([*ROWS, *MEMORY_ROWS])}")
        for length in seconds:
            wanted[_row(name, length)] = None
    return tuple(wanted)


def _row(name: str, seconds: float | None) -> tuple[str, float | None]:
    whole = name in MEMORY_ROWS or ROWS[name].long
    return name, None if whole else seconds


def plan(options: Options) -> list[Job]:
    """The jobs that are not finished yet, pre-trainings first; their configurations are written.

    Raises:
        InstagError: a subject that is not there, or a finished job that was made with other settings.
    """
    find_subjects(options.corpus, [*options.pretrain, *options.subjects, *options.subjects.values()])
    adapt = list(_adaptations(options))
    wanted = {job.needs[0] for job in adapt if job.needs}
    jobs = [job for job in _pretrainings(options) if job.name in wanted or job.kind == "memory"] + adapt
    return [job for job in jobs if not _finished(job)]


def _finished(job: Job) -> bool:
    folder = Path(job.payload["folder"])
    result = result_of(folder)
    if result is not None and _today(result["recipe"]) != json.loads(json.dumps(job.payload["recipe"])):
        raise InstagError(f"{folder} was made with other settings: choose a new output folder, or delete it")
    return result is not None


def _today(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of an earlier run with settings that have been added since, at their defaults."""
    return {**recipe, "settings": json.loads(json.dumps(to_dict(from_dict(Config, recipe["settings"]))))}


def _pretrainings(options: Options) -> Iterator[Job]:
    base = load_config(options.pretrain_preset, [*options.assignments, *_size(options.pretrain_size)])
    names = [name for name, _ in options.rows]
    variants = dict.fromkeys(ROWS[name].variant for name in names if name in ROWS and ROWS[name].variant is not None)
    for variant in variants:
        if not _have_features(options, variant):
            continue
        for seed in options.seeds:
            config = pretraining(base, variant, seed, options.pretrain_steps, len(options.pretrain))
            yield _pretrain_job(options, "pretrain", f"{variant}-s{seed}", config, options.pretrain)
    for name in dict.fromkeys(name for name in names if name in MEMORY_ROWS):
        ids = options.pretrain[: MEMORY_ROWS[name]]
        if len(ids) == MEMORY_ROWS[name]:
            config = pretraining(base, "full", 0, MEMORY_STEPS, len(ids))
            yield _pretrain_job(options, "memory", name, config, ids)


def _pretrain_job(options: Options, kind: str, name: str, config: Config, ids: Sequence[str]) -> Job:
    folder = options.output / PRETRAIN / name
    recipe = {"row": name, "ids": list(ids), "settings": to_dict(config)}
    payload = {"kind": kind, "folder": str(folder), "corpus": str(options.corpus), "ids": list(ids), "recipe": recipe}
    write_config(folder / CONFIG, config)
    return Job(f"{PRETRAIN}/{name}", kind, payload)


def _adaptations(options: Options) -> Iterator[Job]:
    base = load_config(options.preset, [*options.assignments, *_size(options.size)])
    if options.universal is not None and find_universal(options.universal, base.model.extractor) is None:
        raise InstagError(f"--universal {options.universal}: holds no fields for {base.model.extractor}; leave it out")
    for seed in options.seeds:  # all rows of a seed before the next seed: a run that is cut short compares all rows
        for name, seconds in options.rows:
            if name in MEMORY_ROWS or not _have_features(options, ROWS[name].variant or ""):
                continue
            for subject, test in options.subjects.items():
                yield _adapt_job(options, base, name, seconds, seed, subject, test)


def _adapt_job(
    options: Options, base: Config, name: str, seconds: float | None, seed: int, subject: str, test: str
) -> Job:
    row = ROWS[name]
    views = -1 if seconds is None else round(seconds * FPS)
    config = adaptation(base, row, seed, views, whole=test != subject)
    length = "all" if seconds is None else f"{seconds:g}s"
    folder = options.output / ADAPT / f"{subject}-{name}-{length}-s{seed}"
    universal, needs = "none", ()
    start = None if row.variant is None else f"{row.variant}-s{seed}"
    if row.variant == "full" and options.universal is not None:
        start = universal = options.universal
    elif start is not None:
        universal, needs = str(options.output / PRETRAIN / start / UNIVERSAL), (f"{PRETRAIN}/{start}",)
    take, other = (find_subjects(options.corpus, [who])[0] for who in (subject, test))
    recipe = {
        "row": name, "subject": subject, "test": test, "seconds": seconds, "seed": seed, "preset": options.preset,
        "pretrained": start, "settings": to_dict(config),
    }  # fmt: skip
    payload = {
        "kind": "adapt",
        "folder": str(folder),
        "subject": str(take),
        "test": str(other),
        "universal": universal,
        "profile": seed == options.seeds[0],
        "recipe": recipe,
    }
    write_config(folder / CONFIG, config)
    return Job(f"{ADAPT}/{folder.name}", f"adapt {length}", payload, needs)


def _have_features(options: Options, variant: str) -> bool:
    """Whether everybody has the features that a row by extractor needs; said where not."""
    name = variant.removeprefix("extractor_")
    if name == variant:
        return True
    try:
        for path in find_subjects(options.corpus, [*options.pretrain, *options.subjects, *options.subjects.values()]):
            SubjectDataset.open(path, extractor=name).close()
    except DataError as error:
        logger.warning("row extractor_%s is left out: %s", name, error)
        return False
    return True


def _size(size: int | None) -> list[str]:
    return [] if size is None else [f"data.size={size}"]


def write_config(path: Path, config: Config) -> None:
    """A configuration as YAML, which `--preset` reads."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def parse_subjects(texts: Sequence[str]) -> dict[str, str]:
    """`anna` or `anna=anna_take2` -> {"anna": "anna_take2"}: who is adapted to, and the take that is tested."""
    return {text.partition("=")[0]: text.partition("=")[2] or text for text in texts}


def subject_names(corpus: Path) -> list[str]:
    """Names of all subjects in a corpus."""
    return [path.name.removesuffix(PACK_SUFFIX) for path in find_subjects(corpus)]


def result_of(folder: Path) -> dict[str, Any] | None:
    """The result of a finished job."""
    path = folder / RESULT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

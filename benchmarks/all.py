"""The GPU suite in one call, with short settings: every JSON, every log and one page of tables in a folder.

    python3 benchmarks/all.py SUBJECT CORPUS OUT [--parts rasterizer,training] [--preset adapt_fast]

SUBJECT: a processed clip with a face mesh; CORPUS: a folder of such clips. Each part is a command of its own; one that
fails, or takes longer than LIMIT times its estimate, is a line that says so, and the others run. Estimates: seconds on
an H200 with an empty kernel cache, by hand from earlier runs of the parts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import timing

HERE = Path(__file__).resolve().parent
LIMIT = 4  # times the estimate
AVATAR = "avatar.safetensors"


def commands(subject: Path, corpus: Path, out: Path, preset: str) -> dict[str, tuple[int, list[str]]]:
    """Part -> seconds that it should take, and its script with arguments; `rendering` needs `adaptation`'s avatar."""
    run = {"adapt_fast": "fast", "adapt": "faithful"}[preset]
    avatar = out / AVATAR
    return {
        "compilation": (25, ["compilation.py"]),
        "rasterizer": (12, ["rasterizer.py"]),
        "motion_field": (25, ["motion_field.py", "--short"]),
        "audio_hook": (15, ["audio_hook.py"]),
        "loss": (6, ["loss.py"]),
        "optimizer": (6, ["optimizer.py"]),
        "training": (22, ["training.py", str(subject), "--parts", "iteration"]),
        "adaptation": (30, ["adaptation.py", str(subject), "--runs", run, "--seeds", "1", "--keep", str(avatar)]),
        "rendering": (15, ["rendering.py", str(avatar), "--frames", "1000"]),
        "pretraining": (40, ["pretraining.py", str(corpus), "--videos", "1,5", "--steps", "400"]),
    }


def page_of(name: str, command: list[str], seconds: float, said: str) -> str:
    """A part's section: its command and the tables among what it said."""
    rows = [line for line in said.splitlines() if line.startswith("|") or not line.strip()]
    return f"## {name}\n\n`python3 benchmarks/{' '.join(command)}`, {seconds:.0f} s\n\n" + "\n".join(rows).strip()


def run_part(name: str, command: list[str], out: Path, limit: float) -> tuple[str, str]:
    """Run one part; its page, and how it ended in one line."""
    start = time.perf_counter()
    script, *arguments = command
    full = [sys.executable, str(HERE / script), *arguments, "--out", str(out / f"{name}.json")]
    try:
        done = subprocess.run(full, capture_output=True, text=True, check=False, timeout=limit)
        said, complaint = f"{done.stderr}\n{done.stdout}", (done.stderr.strip().splitlines() or [""])[-1]
        ended = f"exit status {done.returncode}: {complaint}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        said, ended = "", f"stopped after {limit:.0f} s"
    seconds = time.perf_counter() - start
    (out / f"{name}.log").write_text(said)
    wrong = failures(out / f"{name}.json", ended)
    shown = page_of(name, command, seconds, said) + "".join(f"\n\n**Failed:** {line}" for line in wrong)
    return shown, f"{name}: {seconds:.0f} s, {'; '.join(wrong) or 'ok'}"


def failures(path: Path, ended: str) -> list[str]:
    """How the command ended, where badly, and the errors that its JSON holds, by part."""
    result = json.loads(path.read_text()) if path.exists() else {}
    parts = {key: value for key, value in result.items() if isinstance(value, dict)}
    parts |= {f"{row.get('run')}, seed {row.get('seed')}": row for row in result.get("rows", [])}
    errors = [f"{key}: {value['error'][-1]}" for key, value in parts.items() if value.get("error")]
    return [*([ended] if ended else []), *errors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", help="comma-separated subset")
    parser.add_argument("--preset", choices=("adapt_fast", "adapt"), default="adapt_fast", help="of the adaptation")
    options = parser.parse_args()
    paths = (options.subject.resolve(), options.corpus.resolve(), options.out.resolve())
    every = commands(*paths, options.preset)
    wanted = options.parts.split(",") if options.parts else list(every)
    if unknown := set(wanted) - set(every):
        raise SystemExit(f"all: no part {sorted(unknown)[0]!r}; there are {', '.join(every)}")
    if missing := [path for path in paths[:2] if not path.exists()]:
        raise SystemExit(f"all: {missing[0]} does not exist: give a processed clip and a folder of such clips")
    out = paths[2]
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / f"{name}{suffix}" for name in wanted for suffix in (".json", ".log")):
        old.unlink(missing_ok=True)
    if "adaptation" in wanted:
        (out / AVATAR).unlink(missing_ok=True)
    print(f"about {sum(every[name][0] for name in wanted)} s", flush=True)
    where = timing.environment()
    pages = [f"# Benchmarks, {time.strftime('%Y-%m-%d')}\n\n{where.get('gpu', 'no GPU')}; {where['packages']}"]
    for name in wanted:
        estimate, command = every[name]
        print(f"{name}: about {estimate} s ...", flush=True)
        shown, line = run_part(name, command, out, LIMIT * estimate)
        print(line, flush=True)
        pages.append(shown)
        (out / "benchmarks.md").write_text("\n\n".join(pages) + "\n")


if __name__ == "__main__":
    main()

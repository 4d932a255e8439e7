"""Documentation that stays true: every file has its sentence, every link and file that is named exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def program_files():
    for folder in ("instag", "data_utils", "submodules"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "build" not in path.parts and path.name != "__init__.py":
                yield path.relative_to(ROOT)


def listed_files():
    """Files of the tables of architecture.md, with the folder that their heading names."""
    base = ROOT
    for line in ARCHITECTURE.splitlines():
        if heading := re.match(r"#+ (\S+/)$", line):
            base = ROOT / heading[1]
        elif package := re.match(r"\*\*([\w-]+)\*\*", line):
            if (ROOT / "submodules" / package[1]).is_dir():
                base = ROOT / "submodules" / package[1]
        elif line.startswith("| `"):
            cell = line.split("|")[1]
            yield from (base / name for name in re.findall(r"`([^`]+)`", cell))


def test_every_file_has_its_sentence():
    listed = {path.relative_to(ROOT) for path in listed_files()}
    assert [str(path) for path in program_files() if path not in listed] == []


def test_every_listed_file_exists():
    assert [str(path) for path in listed_files() if not path.exists()] == []
    assert len(list(listed_files())) > 100  # the tables were found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    """`instag/...py`-like names in code spans, on any page but the log of experiments, which speaks of the past."""
    if page.name == "experiments.md":
        return
    pattern = r"`((?:instag|data_utils|scripts|configs|tests|submodules|docs|benchmarks)/[\w./-]+\.\w+)`"
    named = re.findall(pattern, page.read_text(encoding="utf-8"))
    exist = [name for name in named if (ROOT / name).exists() or (ROOT / name.removeprefix("instag/")).exists()]
    assert named == exist

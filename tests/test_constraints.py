"""constraints.txt: one tested version of every direct dependency, and nothing that ties it to a machine."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_line_is_a_name_and_a_version_of_no_particular_build() -> None:
    for line in LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    names = [canonicalize_name(line.partition("==")[0]) for line in LINES]
    assert len(set(names)) == len(names)


def test_every_direct_dependency_has_a_version_within_its_bounds() -> None:
    versions = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
    wanted = [
        *PROJECT["dependencies"],
        *(line for group in PROJECT["optional-dependencies"].values() for line in group),
    ]
    assert len(wanted) > 15
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{requirement} has no version in constraints.txt"
        assert requirement.specifier.contains(versions[name]), f"{requirement} does not allow {versions[name]}"

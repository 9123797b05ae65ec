"""Bad values of every argument of every public class, and broken YAML: one sentence each, and nothing left behind."""

import copy
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import signatures
import small
import tally
import torch
import yaml
from effort import FULL, examples
from hypothesis import given
from hypothesis import strategies as st

from l2l_lightning.cli import main as cli

BASE = yaml.safe_load(small.CONFIG.read_text())
CASES = signatures.cases()
STRIDE = 1 if FULL else 293  # prime, so that the values of the arguments take turns


@pytest.fixture(autouse=True)
def built_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """`l2l fit` up to the point where the training would start, without the options of the other commands."""
    monkeypatch.setattr(cli.L2LCLI, "_run_subcommand", lambda *_: None)
    monkeypatch.setattr(cli, "TRAINER_COMMANDS", {"fit": cli.TRAINER_COMMANDS["fit"]})


def put(config: Any, place: signatures.Path, value: Any) -> None:
    *way, last = place
    for key in way:
        config = config[key] if isinstance(key, int) else config.setdefault(key, {})
    config[last] = copy.deepcopy(value)


def text_of(case: signatures.Case) -> str:
    config = copy.deepcopy(BASE)
    for keys, value in case.changes.items():
        put(config, tuple(int(key) if key.isdigit() else key for key in keys.split(".")), value)
    if case.place:
        put(config, case.place, case.value)
    return yaml.safe_dump(config)


def outcome(text: str | bytes, folder: Path, capsys: pytest.CaptureFixture) -> str | None:
    """The sentence with which a configuration is refused, None where all could be built; anything else fails."""
    file = folder / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    capsys.readouterr()
    status: int | str | None = None
    try:
        small.l2l("fit", folder, config=file)
    except SystemExit as stop:
        status = stop.code or 0
    if status is None:
        tally.count("odd configurations that are valid")
        return None
    assert status != 0
    said = status if isinstance(status, str) else capsys.readouterr().err.strip()
    lines = [line for line in said.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("l2l: error: ")
    assert sorted(folder.iterdir()) == [file]
    tally.count("bad configurations refused")
    return lines[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "number", range(0, len(signatures.public_classes()), 1 if FULL else 5), ids=lambda n: signatures.names()[n]
)
def test_every_class_is_built_in_the_configuration_that_the_bad_values_go_into(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert outcome(text_of(signatures.plain_case(number)), tmp_path, capsys) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES[::STRIDE], ids=str)
def test_a_bad_value_gets_one_sentence(case: signatures.Case, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start = time.perf_counter()
    sentence = outcome(text_of(case), tmp_path, capsys)
    assert sentence is not None or not case.bad, "it was built"
    assert time.perf_counter() - start < 30  # seconds; a fraction of one where the machine has nothing else to do


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model:\n\tunroll: 5\n", "that cannot start any token in line 2"),
        ("model: [1, 2\n", "expected ',' or ']', but got '<stream end>' in line"),
        ("model: {a: 1\n", "expected ',' or '}', but got '<stream end>' in line"),
        ("model:\n  unroll: 5\n  unroll: 10\n", "duplicate key 'unroll' in line 3"),
        ("model: " + "[" * 100_000, "is not a configuration"),
        ("model: {unroll: 1" + "0" * 5_000 + "}", "is not a configuration: Exceeds the limit"),
        (b"\x7fELF\x02\x01\x01\x00\x96\xff\xfe", "is not text"),
        (b"model: \x00\x01", "is not a configuration"),
        ("", "has keys such as model"),
        ("null", "has keys such as model"),
        ("just text", "has keys such as model"),
        ("[1, 2]", "has keys such as model"),
        ("1: 2", "has keys such as model"),
    ],
    ids=range(13),
)
def test_broken_yaml(text: str | bytes, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert sentence in str(outcome(text, tmp_path, capsys))


@pytest.mark.parametrize(
    "tag",
    [
        '!!python/object/apply:os.system ["touch {}"]',
        '!!python/object/new:os.system ["touch {}"]',
        '!!python/object/apply:subprocess.check_call [["touch", "{}"]]',
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_tags_that_would_run_code_are_refused(tag: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = small.CONFIG.read_text().replace("unroll: 5", f"unroll: {tag.format(tmp_path / 'written')}")
    assert "could not determine a constructor for the tag" in str(outcome(text, tmp_path, capsys))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_a_size_that_no_memory_holds(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(*_: int, **__: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(torch, "zeros", zeros)
    assert "more memory than there is; make sizes such as" in str(outcome(small.CONFIG.read_text(), tmp_path, capsys))


LINES = small.CONFIG.read_text().splitlines()
WORDS = st.sampled_from(
    ["", "null", "-1", "0", "1.5", ".nan", "-.inf", "1e400", "[]", "{}", "word", "'", "*x", "&x", "true"]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """quadratic_smoke.yaml with some lines lost, doubled, swapped or indented, and some keys and values changed."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 3))):
        one, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["delete", "double", "swap", "indent", "key", "value", "text"]))
        key, colon, value = lines[one].partition(":")
        if kind == "delete":
            del lines[one]
        elif kind == "double":
            lines.insert(other, lines[one])
        elif kind == "swap":
            lines[one], lines[other] = lines[other], lines[one]
        elif kind == "indent":
            lines[one] = "  " + lines[one]
        elif kind == "key":
            lines[one] = key[:-1] + colon + value
        elif kind == "value":
            lines[one] = f"{key}{colon} {draw(WORDS)}"
        else:
            lines[one] += draw(st.text(max_size=3))
    return "\n".join(lines)


@pytest.mark.filterwarnings("ignore")
@examples(20, 2_000)
@given(text=mutated())
def test_any_mutation_of_a_configuration_is_built_or_refused_by_one_sentence(
    text: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    if "1000" not in text:
        outcome(text, tmp_path_factory.mktemp("mutated"), capsys)


def processes() -> Iterator[str]:
    """Bad configurations for processes of their own."""
    good = small.CONFIG.read_text()
    yield good.replace("hidden_size: 8", "hidden_size: -8")
    yield good.replace("unroll: 5", "unrol: 5")
    yield "model:\n\tunroll: 5\n"


@pytest.mark.parametrize("text", list(processes()) if FULL else list(processes())[:1], ids=lambda text: text[:10])
def test_a_process_ends_soon_with_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    root = Path(cli.__file__).parents[2]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "l2l_lightning.cli", "fit", "--config", "bad.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert time.perf_counter() - start < 60  # some 6 seconds, of which 5 are imports, on an idle machine
    assert done.returncode not in (0, None)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("l2l: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]

"""Real files with random damage: they are read, or refused with an InputError, soon, and nothing is written."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import small
import strangers
import torch
from effort import examples
from hypothesis import given
from hypothesis import strategies as st
from strangers import read_or_refused

from l2l_lightning import LearnedOptimizer
from l2l_lightning.cli.commands import compare
from l2l_lightning.files import checkpoint, rule_file

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63), 10**9, 10**100, 0.5, -1.0, 1e308, 5e-324]),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
)
NAMES = st.sampled_from(
    [
        "",
        "x",
        "class_path",
        "init_args",
        "rule",
        "os.system",
        "l2l_lightning.rules.Adam",
        "\x00\x1b[2J",
        "9" * 50,
    ]
)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, NAMES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)


def places(thing: Any, above: tuple = ()) -> Iterator[tuple]:
    """The ways to all values in nested dictionaries and lists."""
    inner = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list) else ()
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def put(thing: Any, way: tuple, change: Callable[[Any, Any], None]) -> None:
    for key in way[:-1]:
        thing = thing[key]
    change(thing, way[-1])


def damage(data: st.DataObject, thing: Any, junk: st.SearchStrategy) -> None:
    """Replace, remove or add one to three values."""
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        way = data.draw(st.sampled_from(list(places(thing))), "place")
        action = data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        value = data.draw(junk, "value")

        def change(owner: Any, key: Any, action: str = action, value: Any = value) -> None:
            if action == "remove":
                del owner[key]
            elif action == "add" and isinstance(owner, dict):
                owner[data.draw(st.one_of(NAMES, st.integers(0, 3), st.none()))] = value
            else:
                owner[key] = value

        put(thing, way, change)


def mutated(data: st.DataObject, whole: bytes) -> bytes:
    """Some bytes flipped, cut off, cut out, put in or doubled."""
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        place = data.draw(st.integers(0, max(len(whole) - 1, 0)), "place")
        size = data.draw(st.sampled_from([1, 1, 2, 8, 100]), "size")
        new = data.draw(st.sampled_from(["flip", "flip", "flip", "truncate", "remove", "insert", "double"]))
        piece = whole[place : place + size]
        whole = {
            "flip": whole[:place] + bytes(byte ^ (1 << place % 8) for byte in piece) + whole[place + size :],
            "truncate": whole[:place],
            "remove": whole[:place] + whole[place + size :],
            "insert": whole[:place] + bytes(data.draw(st.binary(min_size=size, max_size=size))) + whole[place:],
            "double": whole[:place] + piece + whole[place:],
        }[new]
    return whole


def open_everywhere(path: Path) -> None:
    """Every way in, none of which writes anything."""
    before = sorted(path.parent.iterdir())
    rule = small.module().rule
    read_or_refused(lambda: rule_file.load(path))
    read_or_refused(lambda: rule_file.trained_on(path))
    read_or_refused(lambda: compare._trained_on([str(path)], ()))
    read_or_refused(lambda: LearnedOptimizer([torch.zeros(2, requires_grad=True)], path))
    if path.suffix == ".ckpt":
        read_or_refused(lambda: checkpoint.read(path))
        read_or_refused(lambda: checkpoint.load_rule(path))
        read_or_refused(lambda: checkpoint.load_phi(path, rule))
        read_or_refused(lambda: checkpoint.check_rule(checkpoint.read(path), rule, exact=True))
    else:
        read_or_refused(lambda: rule_file.read(path))
    assert sorted(path.parent.iterdir()) == before
    if path.suffix == ".ckpt":
        out = path.with_name("out.safetensors")
        assert read_or_refused(lambda: rule_file.export(path, out)) != out.exists()
        assert not out.exists() or not read_or_refused(lambda: rule_file.load(out))


@examples(40, 2_000)
@given(st.data())
def test_bytes_of_an_exported_file(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rule.safetensors")
        path.write_bytes(mutated(data, (strangers.trained() / path.name).read_bytes()))
        open_everywhere(path)


@examples(40, 2_000)
@given(st.data())
def test_bytes_of_a_checkpoint(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rule.ckpt")
        path.write_bytes(mutated(data, (strangers.trained() / path.name).read_bytes()))
        open_everywhere(path)


@examples(40, 2_000)
@given(st.data())
def test_values_of_a_description(data: st.DataObject) -> None:
    description, _ = strangers.described()
    damage(data, description, JUNK)
    with tempfile.TemporaryDirectory() as folder:
        open_everywhere(strangers.raw_rule_file(Path(folder, "rule.safetensors"), description))

"""Files whose descriptions or headers ask for absurd sizes are refused soon, and in little memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import strangers
import tally
from strangers import LSTM, RULES, refused, rule
from torch import nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.files import checkpoint, rule_file
from l2l_lightning.files.description import describe
from l2l_lightning.rules import SGD, CoordinatewiseLSTM, SoftmaxMLP, SoftmaxRecurrent


def chain(depth: int) -> Any:
    inner: Any = describe(SGD())
    for _ in range(depth):
        inner = rule(RULES + "partitioned.PartitionedRule", rules={"a": inner}, routes=[{"rule": "a"}])
    return inner


BOMBS = {
    **{f"hidden_size {size}": rule(LSTM, hidden_size=size) for size in (10**6, 10**9, 2**62)},
    "layers": rule(LSTM, layers=10**9, hidden_size=5),
    "head": rule(
        RULES + "multiscale_adam.MultiscaleAdam", head=describe(SoftmaxMLP()) | {"init_args": {"hidden_layers": 10**9}}
    ),
    "recurrent head": rule(
        RULES + "multiscale_adam.MultiscaleAdam", head=describe(SoftmaxRecurrent()) | {"init_args": {"layers": 10**9}}
    ),
    "timescales": rule(RULES + "multiscale_adam.MultiscaleAdam", timescales=[[0.5, 0.5]] * 10_000),
    "momentums": rule(RULES + "normalized_inputs.KMomentums", k=10**9),
    "timesteps": rule(RULES + "normalized_inputs.KTimesteps", k=10**9),
    "mean": rule(RULES + "normalized_inputs.MeanNormalizedGradient", k=10**9),
    "many rules": rule(
        RULES + "partitioned.PartitionedRule", rules={f"r{i}": rule(LSTM) for i in range(5_000)}, routes=[]
    ),
    "chain": chain(100),
}
FILES = {
    "length": lambda path: strangers.header_file(path, b"{}", length=2**63),
    "100 MB": lambda path: strangers.header_file(path, b"{}", length=10**8),
    "huge tensor": lambda path: strangers.header_file(
        path, b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    ),
    "overflow": lambda path: strangers.header_file(
        path, b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "deep JSON": lambda path: strangers.header_file(
        path, json.dumps({"__metadata__": {"l2l_lightning": "[" * 100_000}}).encode()
    ),
    "deep header": lambda path: strangers.header_file(path, b'{"a":' * 100_000),
    "large metadata": lambda path: strangers.header_file(
        path, json.dumps({"__metadata__": {"l2l_lightning": "[" + "[]," * 1_000_000 + "[]]"}}).encode()
    ),
    "many values": lambda path: strangers.rule_file(path, trained_on={"x": [[]] * 200_000}),
}


@pytest.mark.parametrize("description", BOMBS.values(), ids=BOMBS)
def test_a_description_of_absurd_size_is_refused_soon(tmp_path: Path, description: dict[str, Any]) -> None:
    file = strangers.rule_file(tmp_path / "bad.safetensors", rule=description)
    refused(lambda: rule_file.load(file), str(file))


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_an_exported_file_of_absurd_size_is_refused_soon(tmp_path: Path, make: Any) -> None:
    file = make(tmp_path / "bad.safetensors")
    refused(lambda: rule_file.load(file), str(file))


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose largest resident memory is read before and after; 200 MB are little for torch."""
    files = []
    for place, description in enumerate(BOMBS.values()):
        files.append(strangers.rule_file(tmp_path / f"rule{place}.safetensors", rule=description))
    files += [make(tmp_path / f"{place}.safetensors") for place, make in enumerate(FILES.values())]
    program = """
        import json, resource, sys
        from l2l_lightning.files import rule_file
        from l2l_lightning.core.errors import InputError

        rule_file.load("lstm-mnist")
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before = peak()
        for file in sys.argv[1:]:
            try:
                rule_file.load(file)
                print("loaded", file)
            except InputError:
                pass
            if peak() - before > 200:
                print(file, peak() - before)
                break
    """
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    tally.count(strangers.TALLY, len(files))


def test_the_names_of_counted_registrations_are_given_back() -> None:
    hooks = nn.modules.module
    before = [len(hooks._global_parameter_registration_hooks), len(hooks._global_module_registration_hooks)]
    with pytest.raises(InputError):
        checkpoint.build_rule(rule(LSTM, layers=10**9), {}, "file")
    assert before == [len(hooks._global_parameter_registration_hooks), len(hooks._global_module_registration_hooks)]
    CoordinatewiseLSTM(layers=60, hidden_size=1)  # and nothing is counted any more

"""What a file may hold that a stranger wrote: everything is looked at before anything uses it."""

import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registrations

from l2l_lightning.core.errors import InputError
from l2l_lightning.files.build import brief, check_plain

LARGEST_PICKLE = 4_000_000  # bytes beside the tensors; a large training has some ten thousand
SHARED = 16  # tensors of a file may share memory, but not make much more of it than there is
# torch's safe reader lets these two through, which fill any memory and take any time.
BOMBS = re.compile(rb"c[\w.]+\n(bytearray|encode)\n")
COUNTS = ("windows", "skipped_steps", "skipped_in_a_row")
PROBLEM_COUNTS = ("resets", "divergences", "early_resets")


def check_archive(file: IO[bytes]) -> None:
    """Refuse what is no archive of ``torch.save``, or one that would unfold to more than its own size.

    Raises:
        InputError: for another format, compressed, overlapping or damaged records, or a pickle of an absurd size.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            size = file.seek(0, 2)
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise InputError("its records are compressed")
            if sum(record.file_size for record in records) > size:
                raise InputError("its records claim more than the file holds")
            for record in records:
                if record.filename.endswith(".pkl"):
                    if record.file_size > LARGEST_PICKLE:
                        raise InputError(f"{brief(record.filename)} is larger than {LARGEST_PICKLE:,} bytes")
                    if BOMBS.search(archive.read(record)):
                        raise InputError("it holds bytes, which no checkpoint of this project does")
            damaged = archive.testzip()  # torch does not compare checksums
            if damaged is not None:
                raise InputError(f"its part {brief(damaged)} is damaged")
    except zipfile.BadZipFile as error:
        raise InputError("its bytes are not those of one") from error
    finally:
        file.seek(0)


def check_tensors(tensors: Any, name: str) -> None:
    """Refuse phi unless it is a dictionary of plain tensors whose values are all there.

    Raises:
        InputError: for other keys or values, or tensors that take more memory than their file.
    """
    if not is_plain_dict(tensors) or not all(isinstance(key, str) for key in tensors):
        raise InputError(f"{name} must be a dictionary of tensors, got one of type {type(tensors).__name__}.")
    for key, tensor in tensors.items():
        if not _is_plain_tensor(tensor):
            raise InputError(f"{name} must hold plain tensors alone, but {brief(key)} is none.")
    memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    if sum(tensor.nbytes for tensor in tensors.values()) > SHARED * sum(memory.values()):
        raise InputError(f"{name} holds tensors that would take more memory than the file has.")


def check_finite(tensors: dict[str, Tensor], name: str) -> None:
    """Refuse phi that no rule can use.

    Raises:
        InputError: for values that are infinite or not a number.
    """
    bad = [key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise InputError(f"{name} holds numbers that are not finite, in {brief(bad[0])}.")


def check_described(described: dict[str, Any], name: str) -> None:
    """Refuse descriptions that are none, of the rule and of what it was trained on.

    Raises:
        InputError: naming the key whose value is not what it must be.
    """
    rule, trained_on = described.get("rule"), described.get("trained_on", {})
    check_plain(rule, f"{name}: rule")
    check_plain(trained_on, f"{name}: trained_on")
    if type(rule) is not dict or type(rule.get("class_path")) is not str or type(rule.get("init_args")) is not dict:
        raise InputError(f"{name}: rule must be a class_path and its init_args, got {brief(rule)}.")
    if type(trained_on) is not dict:
        raise InputError(f"{name}: trained_on must be a dictionary, got {brief(trained_on)}.")


def check_saved(saved: Any, name: str) -> None:
    """Refuse what ``MetaOptimizerModule`` never writes into a checkpoint.

    Raises:
        InputError: naming the key whose value is not what it must be.
    """
    if type(saved) is not dict:
        raise InputError(f"{name}: what l2l_lightning saved must be a dictionary, got {brief(saved)}.")
    check_described(saved, name)
    _check_counts(saved, COUNTS, name)
    if type(saved.get("seed")) is not int:
        raise InputError(f"{name}: seed must be a whole number, got {brief(saved.get('seed'))}.")
    rates = saved.get("baseline_rates")
    check_plain(rates, f"{name}: baseline_rates")
    if type(rates) is not dict or not all(type(rate) in (int, float) for rate in rates.values()):
        raise InputError(f"{name}: baseline_rates must be a dictionary of rates, got {brief(rates)}.")
    processes = saved.get("processes")
    if type(processes) is not list or not processes or not all(type(process) is dict for process in processes):
        raise InputError(f"{name}: processes must be a list of what each process saved, got {brief(processes)}.")
    for process in processes:
        totals = process.get("totals")
        if process.keys() != {"inner", "estimator", "totals"} or type(totals) is not dict:
            raise InputError(f"{name}: a process must have saved inner, estimator and totals, got {brief(process)}.")
        _check_counts(totals, PROBLEM_COUNTS, name)
        _check_inner(process["inner"], f"{name}: inner")


def _check_counts(saved: dict[str, Any], names: Iterable[str], name: str) -> None:
    for key in names:
        value = saved.get(key)
        if type(value) is not int or value < 0:
            raise InputError(f"{name}: {key} must be a whole number of at least 0, got {brief(value)}.")


def _check_inner(inner: Any, name: str) -> None:
    """None, or what makes an ``InnerState``."""
    if inner is None:
        return
    if type(inner) is not dict or inner.keys() != {"theta", "rule", "instance", "age", "lifetime", "total", "diverged"}:
        raise InputError(f"{name} must be the state of problems, got {brief(inner)}.")
    leaves = {key: inner[key] for key in ("theta", "age", "lifetime", "total", "diverged")}
    check_tensors(leaves, name)
    check_tensors(inner["rule"], f"{name}: rule")
    check_tensors(inner["instance"], f"{name}: instance")
    theta = inner["theta"]
    problems = theta.shape[:1]
    for key, dtype in (
        ("age", torch.int64),
        ("lifetime", torch.int64),
        ("total", inner["theta"].dtype),
        ("diverged", torch.bool),
    ):
        if inner[key].dtype != dtype or inner[key].shape != problems:
            raise InputError(f"{name}: {key} must have one {dtype} a problem.")
    if theta.dim() != 2 or not theta.is_floating_point():
        raise InputError(f"{name}: theta must be a matrix of problems and coordinates, got {tuple(theta.shape)}.")


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Modules that are built inside may register this many parameters, buffers and parts; a loop of more stops.

    Raises:
        InputError: as soon as there are more.
    """
    here, found = threading.get_ident(), 0

    def register(owner: nn.Module, name: str, thing: object) -> None:
        nonlocal found
        if threading.get_ident() != here:
            return
        found += 1
        if found > count:
            raise InputError("it has more parameters than the file holds")

    with ExitStack() as stack:
        for hook in (
            registrations.register_module_parameter_registration_hook,
            registrations.register_module_buffer_registration_hook,
            registrations.register_module_module_registration_hook,
        ):
            stack.callback(hook(register).remove)
        yield


def is_plain_dict(thing: Any) -> bool:
    """A dictionary whose methods are those of its class; a pickle may give an OrderedDict others."""
    return type(thing) is dict or (type(thing) is OrderedDict and vars(thing).keys() <= {"_metadata"})


def _is_plain_tensor(thing: Any) -> bool:
    return (
        type(thing) in (Tensor, nn.Parameter)
        and not vars(thing)  # attributes could stand in for its methods
        and thing.layout == torch.strided
        and thing.device.type == "cpu"
        and not thing.is_quantized
        and not thing.is_nested
        and thing.nbytes <= thing.untyped_storage().nbytes()
    )

"""What a comparison measured, on disk: it can be interrupted, continued and drawn anew.

A folder holds ``settings.json`` and ``results/TARGET/CONTENDER.safetensors`` with the curve, the metrics and the rate.
"""

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from l2l_lightning.core.errors import InputError
from l2l_lightning.evaluation.compare import Result

Targets = dict[str, dict[str, Result]]  # target -> contender -> result


@dataclass
class Store:
    """Results of a comparison in a folder.

    Attributes:
        folder: where they lie.
        settings: what was compared, in plain values.
    """

    folder: Path
    settings: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any]) -> "Store":
        """A new folder, or one that holds the same comparison, to be continued.

        Raises:
            InputError: if the folder holds anything else, or cannot be made.
        """
        settings = json.loads(json.dumps(settings))
        path = folder / "settings.json"
        if path.is_file():
            if cls.existing(folder).settings != settings and any(folder.glob("results/*/*")):
                raise InputError(
                    f"--output_dir: {folder} holds a comparison with other settings (see {path}); give a new folder."
                )
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--output_dir: {folder} exists already and is no comparison; give a new folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"--output_dir: {folder} cannot be written ({error.strerror}).") from error
        return cls(folder, settings)

    @classmethod
    def existing(cls, folder: Path) -> "Store":
        """The comparison in a folder.

        Raises:
            InputError: if there is none.
        """
        try:
            settings = json.loads((folder / "settings.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} holds no comparison of `l2l compare`: {error}") from error
        if not isinstance(settings, dict) or not {"targets", "contenders"} <= settings.keys():
            raise InputError(f"{folder} holds no comparison of `l2l compare`: its settings.json is another program's.")
        return cls(folder, settings)

    def _path(self, target: str, contender: str) -> Path:
        words = [_file_name(name) for name in (target, contender)]
        return self.folder / "results" / words[0] / f"{words[1]}.safetensors"

    def save(self, target: str, contender: str, result: Result) -> None:
        """Write one result; it has its final name only when it is whole."""
        path = self._path(target, contender)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"curve": result.curve, **{f"metrics/{name}": values for name, values in result.metrics.items()}}
        numbers = {
            "target": target,
            "contender": contender,
            "learning_rate": result.learning_rate,
            "learned": result.learned,
            "seconds_per_step": result.seconds_per_step,
        }
        partial = path.with_suffix(".partial")
        save_file(
            {name: leaf.contiguous() for name, leaf in tensors.items()}, partial, {"numbers": json.dumps(numbers)}
        )
        partial.replace(path)

    def load(self, target: str, contender: str) -> Result | None:
        """A result, None where it has not been measured yet.

        Raises:
            InputError: if its file is damaged.
        """
        path = self._path(target, contender)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                numbers = json.loads(file.metadata()["numbers"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            metrics = {name.removeprefix("metrics/"): leaf for name, leaf in tensors.items() if name != "curve"}
            rate, learned, seconds = (numbers[name] for name in ("learning_rate", "learned", "seconds_per_step"))
            return Result(rate, tensors["curve"], metrics, learned, seconds)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged; remove it and run the comparison again: {error}") from error

    def results(self) -> Targets:
        """All results that are there, in the order of the settings."""
        found: Targets = {}
        for target in self.settings["targets"]:
            mine = {name: self.load(target, name) for name in self.settings["contenders"]}
            found[target] = {name: result for name, result in mine.items() if result is not None}
        return {target: results for target, results in found.items() if results}


def _file_name(name: str) -> str:
    """A name that is no path; a hash keeps names apart that differ in other characters."""
    word = re.sub(r"[^\w+=-]+", "_", name)
    return f"{word}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def write_curves(path: Path, targets: Targets) -> None:
    """One row a loss: target, contender, problem, step, loss."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["target", "contender", "problem", "step", "loss"])
        for target, results in targets.items():
            for name, result in results.items():
                for problem, curve in enumerate(result.curve.T.tolist()):
                    writer.writerows((target, name, problem, step, loss) for step, loss in enumerate(curve))

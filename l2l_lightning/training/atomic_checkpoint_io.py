"""How checkpoints reach the disk, and how Lightning reads them again."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from l2l_lightning.core.errors import RunError


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint appears under its name whole or not at all, also where the process or the machine dies meanwhile.

    Lightning writes into a temporary folder and moves the file, which is a copy where that folder is on another disk.
    Here the bytes go to a hidden file beside the checkpoint, to the disk, and only then get its name. Reading never
    unpickles anything but tensors and plain values. Paths that are no local ones are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the checkpoint.

        Raises:
            RunError: if it cannot be written; what stood under its name before still does.
        """
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        part = path.with_name(f".{path.name}.part")  # the next save replaces what a killed one left behind
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            with part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            _sync_folder(path.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RunError(
                f"No checkpoint can be written to {path.parent} ({error.strerror}); those that are there are whole."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Tensors and plain values; ``weights_only`` is nothing to choose."""
        return super().load_checkpoint(path, map_location, weights_only=True)


def _sync_folder(folder: Path) -> None:
    """The new name itself is on the disk only when its folder is."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""``l2l plot``: the pictures of comparisons, drawn anew from what they saved."""

from collections.abc import Sequence
from pathlib import Path

from l2l_lightning.cli.commands.base import CommandParser, Run
from l2l_lightning.core.errors import InputError
from l2l_lightning.evaluation import pictures
from l2l_lightning.evaluation.store import Store

HELP = "tables and figures of comparisons anew, from their saved results"


def main(arguments: Sequence[str], run: Run) -> None:
    """Draw every folder.

    Raises:
        InputError: for a folder that holds no comparison, or none of its results.
    """
    parser = CommandParser("plot", "Draw tables, figures and report of `l2l compare` anew from the saved results.")
    parser.add_argument("folders", nargs="+", metavar="LOGDIR", help="output folders of `l2l compare`")
    stores = [Store.existing(Path(folder)) for folder in parser.parse_args(arguments).folders]
    for store in stores:
        if not store.results():
            raise InputError(f"{store.folder} holds no results yet; `l2l compare` measures them.")
        print(f"report: {pictures.draw(store)}")

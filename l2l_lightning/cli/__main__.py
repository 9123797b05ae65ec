"""``python -m l2l_lightning.cli``."""

from l2l_lightning.cli.main import main

main()

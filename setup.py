"""The build step that pyproject.toml cannot express: ``configs/`` becomes ``l2l_lightning/configs/`` in a wheel.

An editable installation needs no copy: l2l_lightning/cli/packaged_configs.py looks beside the package as well.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = [str(path) for path in sorted(Path("configs").rglob("*.yaml"))]


class BuildWithConfigs(build_py):
    """Builds the package, then copies the configurations into it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for config in CONFIGS:
                target = Path(self.build_lib, "l2l_lightning", config)
                self.mkpath(str(target.parent))
                self.copy_file(config, str(target))

    def get_source_files(self) -> list[str]:
        """The files of a source distribution."""
        return [*super().get_source_files(), *CONFIGS]


setup(cmdclass={"build_py": BuildWithConfigs})

"""The provider gets into a Hermes: by files that import the package, or by an entry point."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import yaml
from click.testing import CliRunner
from plugins.memory import _load_provider_from_dir

from hermes_tasks import plugin
from hermes_tasks.cli import main

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_it_is_installed_as_files_that_import_the_package(tmp_path: Path) -> None:
    for _ in range(2):  # once more changes nothing
        said = CliRunner().invoke(main, ["install-plugin", "--hermes-home", str(tmp_path)])
        assert said.exit_code == 0
    directory = tmp_path / "plugins" / "honcho_tasks"
    assert {file.name for file in directory.iterdir()} == {"__init__.py", "cli.py", "plugin.yaml"}
    # Not a copy, which an update of the package would leave behind.
    assert all(file.stat().st_size < 300 for file in directory.glob("*.py"))
    # The host looks for this word before it imports anything.
    assert "MemoryProvider" in (directory / "__init__.py").read_text()
    provider = _load_provider_from_dir(directory)
    assert provider is not None
    assert provider.name == "honcho_tasks"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    home = tmp_path / "a file"
    home.touch()
    said = CliRunner().invoke(main, ["install-plugin", "--hermes-home", str(home / "hermes")])
    assert said.exit_code == 2
    assert str(home) in said.output


def test_a_newer_host_loads_the_package_of_the_entry_point_as_a_directory() -> None:
    group = PROJECT["entry-points"]["hermes_agent.memory_providers"]
    assert group == {"honcho_tasks": plugin.__name__}
    provider = _load_provider_from_dir(Path(plugin.__file__).parent)
    assert provider is not None
    assert provider.name == "honcho_tasks"


def test_the_manifest_says_what_the_host_must_know() -> None:
    manifest = yaml.safe_load(files(plugin).joinpath("plugin.yaml").read_text())
    assert manifest["name"] == "honcho_tasks"
    # Else it would be loaded as any plug-in, too.
    assert manifest["kind"] == "exclusive"
    assert manifest["version"] == PROJECT["version"]

"""The README tells the truth where a program can check it."""

import re
import subprocess
import sys

from tests.meta.source import ROOT

README = (ROOT / "README.md").read_text()


def test_settings_are_those_of_the_code() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "server", "settings"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert printed.strip() in README, "paste the output of: orch8-cloud settings"


def test_every_path_that_it_names_exists() -> None:
    block = README.split("## The map", 1)[1].split("```")[1]
    names = re.findall(r"^( *)(\S+/?)(?=[ /])", block, re.MULTILINE)
    assert len(names) > 15
    top = ROOT
    for indent, name in names:
        if not indent:
            top = ROOT / name
            assert top.exists(), name
        elif len(indent) == 2:
            assert (top / name).exists(), f"{top.name}/{name}"


def test_every_package_is_on_the_map() -> None:
    for folder in ("server", "rest_bridge"):
        packages = {path.name for path in (ROOT / folder).iterdir() if (path / "__init__.py").exists()}
        assert {name for name in packages if f"{name}/" not in README} == set()


def test_every_make_target_that_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

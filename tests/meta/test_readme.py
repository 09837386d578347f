"""The README tells the truth where a program can check it."""

import re
import subprocess
import sys
from pathlib import Path

from server.providers.templates.catalog import BUILT_IN, Catalog
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


def test_the_template_that_it_shows_is_good(tmp_path: Path) -> None:
    text = README.split("## Templates", 1)[1].split("```json\n", 1)[1].split("```", 1)[0]
    (tmp_path / "order-alert").mkdir()
    (tmp_path / "order-alert" / "template.json").write_text(text)
    assert [template.id for template in Catalog.load([tmp_path]).all()] == ["tmpl_order_alert"]


def test_it_names_every_template() -> None:
    section = README.split("## Templates", 1)[1].split("\n## ", 1)[0]
    assert [template.name for template in Catalog.load([BUILT_IN]).all() if f"`{template.name}`" not in section] == []

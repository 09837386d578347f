"""Reads the Containerfile, and carries its steps out in a folder: an image without a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.layouts import DEPLOY
from tests.meta.source import ROOT

FILE = DEPLOY / "Containerfile"
KNOWN = {
    *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "STOPSIGNAL", "ENTRYPOINT", "CMD"),
}
STEP_WITHIN_S = 480


@dataclass(frozen=True)
class Step:
    """One instruction. `flags` are its words that begin with --."""

    name: str
    flags: tuple[str, ...]
    value: str

    def words(self) -> list[str]:
        """Its value as a list, as JSON or as words."""
        return list(json.loads(self.value)) if self.value.startswith("[") else self.value.split()


def stages() -> list[list[Step]]:
    """The stages, each from its FROM on."""
    found: list[list[Step]] = []
    for step in _steps():
        if step.name == "FROM":
            found.append([])
        found[-1].append(step)
    return found


def _steps() -> Iterator[Step]:
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, *rest = line.split(maxsplit=1)
            text = rest[0] if rest else ""
            flags = re.match(r"(?:--\S+\s+)*", text)
            own = flags[0] if flags else ""
            yield Step(name, tuple(own.split()), text[len(own) :].strip())


class Image:
    """The image's file system below a folder. Its absolute paths are replaced; its Python is ours."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._work = folder

    def path(self, inside: str) -> Path:
        """Where a path of the image is."""
        return self._root / inside.lstrip("/") if inside.startswith("/") else self._work / inside

    def carry_out(self, step: Step) -> None:
        """Does what a step of the build says."""
        if step.name == "WORKDIR":
            self._work = self.path(step.value)
            self._work.mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            *sources, target = step.words()
            for source in sources:
                self._copy(ROOT / source, self.path(target), into=target.endswith("/"))
        elif step.name == "RUN":
            self._run(step.value)

    def _copy(self, source: Path, target: Path, *, into: bool) -> None:
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / source.name if into else target)

    def _run(self, command: str) -> None:
        here = re.sub(r"(?<![\w.])/(opt|src|data)\b", lambda match: str(self._root / match[1]), command)
        here = re.sub(r"^python(?= )", sys.executable, here)
        done = subprocess.run(
            ["sh", "-ec", here], cwd=self._work, env=clean(), capture_output=True, text=True, timeout=STEP_WITHIN_S
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def clean(**more: str) -> dict[str, str]:
    """The environment without what belongs to these tests: where packages come from stays."""
    ours = ("ORCH8_", "PYTHON", "VIRTUAL_ENV", "COVERAGE", "PYTEST")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more

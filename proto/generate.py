"""Rebuilds everything in gen/ from the protos: `python proto/generate.py`, or `--check` to prove that gen/ is fresh."""

import argparse
import filecmp
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import grpc_tools

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GEN = ROOT / "gen"
# googleapis-common-protos installs google/api and google/rpc here; grpcio-tools carries google/protobuf.
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
SCRIPTS = Path(sys.executable).parent


def sources() -> list[str]:
    """Every proto file of ours, as protoc wants it named."""
    return sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


def protoc(*arguments: str) -> None:
    """Runs protoc with the include paths that all our files need."""
    includes = [f"-I{path}" for path in (PROTO, SITE_PACKAGES, WELL_KNOWN)]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments, *sources()], check=True, cwd=ROOT)


def generate_python(out: Path) -> None:
    """Messages, stubs and their types, as importable packages."""
    out.mkdir(parents=True)
    plugins = [f"--plugin=protoc-gen-{name}={SCRIPTS / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    protoc(*plugins, *(f"--{name}_out={out}" for name in ("python", "mypy", "grpc_python", "mypy_grpc")))
    for folder in [path for path in out.rglob("*") if path.is_dir()]:
        (folder / "__init__.py").write_text('"""Generated from proto/. Do not edit."""\n')


def generate(out: Path) -> None:
    """Writes all generated files below a folder that does not hold them yet."""
    generate_python(out / "python")
    protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={out / 'descriptors.binpb'}")


def differences(fresh: Path, committed: Path) -> list[str]:
    """The files that differ between two trees, or are in one of them only."""

    def files(tree: Path) -> set[Path]:
        return {path.relative_to(tree) for path in tree.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    both = files(fresh) & files(committed)
    changed = {path for path in both if not filecmp.cmp(fresh / path, committed / path, shallow=False)}
    return sorted(str(path) for path in changed | (files(fresh) ^ files(committed)))


def main() -> int:
    """Regenerates, or with --check compares and says which files are stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where gen/ is not what the protos say"
    )
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "gen"
        generate(fresh)
        if check:
            stale = differences(fresh, GEN)
            for name in stale:
                print(f"stale: gen/{name}; run: make generate", file=sys.stderr)
            return 1 if stale else 0
        shutil.rmtree(GEN, ignore_errors=True)
        shutil.copytree(fresh, GEN)
    return 0


if __name__ == "__main__":
    sys.exit(main())

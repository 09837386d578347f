"""orch8-cloud: the one command. Each subcommand imports its part when it runs: `--help` answers at once."""

import asyncio
import sys
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from server.configuration import StartFailed

app = typer.Typer(
    name="orch8-cloud",
    help="The managed control plane of the Orch8 workflow engine. Start with: orch8-cloud up",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _run(program: Coroutine[Any, Any, int]) -> None:
    raise typer.Exit(asyncio.run(program))


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port for everything: REST, gRPC, tunnel.")] = 8080,
    data_dir: Annotated[Path, typer.Option(help="Database, engines, keys and logs. Kept between runs.")] = Path(
        ".orch8"
    ),
    ready_file: Annotated[
        Path | None, typer.Option(help="Written as JSON when everything answers: url, keys, instance.")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(help="The plan of new organizations: free, starter, pro… (default: free)")
    ] = None,
) -> None:
    """Run everything on this machine: Envoy, server, proxy and an engine. Ends with a curl that works.

    Ctrl-C stops it all. The next run on the same data folder finds its instances and keys again.
    """
    from server.up.command import up as run_up

    _run(run_up(port=port, data_dir=data_dir, ready_file=ready_file, plan=plan))


@app.command()
def serve() -> None:
    """Run the control plane alone (gRPC). Settings: the ORCH8_… variables in the README."""
    from server.app import run_server
    from server.settings import ServerSettings

    _run(run_server(ServerSettings.read()))


@app.command()
def proxy(
    direct: Annotated[bool, typer.Option("--direct", help="Carry the bytes too, for places without Envoy.")] = False,
) -> None:
    """Run a proxy: it decides about tunnel and gateway requests. Any number of them may run."""
    from rest_bridge.proxy.app import run_proxy
    from rest_bridge.settings import ProxySettings

    _run(run_proxy(ProxySettings.read(), direct=direct))


@app.command()
def edge() -> None:
    """Run Envoy, configured for this product: the only thing that the world reaches."""
    from rest_bridge.envoy.run import run_edge
    from rest_bridge.settings import EdgeSettings

    _run(run_edge(EdgeSettings.read()))


@app.command()
def doctor(
    part: Annotated[
        list[str] | None, typer.Option(help="Only this part: server, proxy or edge. May be given several times.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check the configuration before it goes live, and say what to fix. Exit code 1: something has to be fixed.

    It reads the same ORCH8_… variables as the parts, changes nothing, and prints no secret.
    """
    from server.doctor.command import PARTS
    from server.doctor.command import doctor as examine

    if unknown := set(part or ()) - set(PARTS):
        raise typer.BadParameter(f"there is no part {', '.join(sorted(unknown))}: write {', '.join(PARTS)}")
    text, code = asyncio.run(examine(part or PARTS, json=as_json))
    typer.echo(text)
    raise typer.Exit(code)


@app.command()
def migrate(
    to: Annotated[
        str,
        typer.Option(
            envvar="ORCH8_DATABASE_URL",
            show_default=False,
            help="The empty database: postgresql://USER:PASSWORD@HOST/NAME. In the variable others do not see it.",
        ),
    ],
    source: Annotated[
        Path, typer.Option("--from", help="The data folder of `up` or `serve`, or its orch8.db itself.")
    ] = Path(".orch8"),
) -> None:
    """Move everything from a data folder (SQLite) into Postgres.

    1. Stop what runs on the folder.

    2. Make an empty database: createdb orch8

    3. orch8-cloud migrate --from .orch8 --to postgresql://ana:secret@db.example.com/orch8

    4. Start with ORCH8_DATABASE_URL set to it, and the same ORCH8_SECRET_KEY: secrets stay sealed as they are. (That of
    `up` is in the folder's secrets.json.)

    All rows are moved in one transaction and counted, or none is: whatever goes wrong, run it again. The folder's rows
    stay as they are, and so do the engines in it. A target that holds rows is refused.
    """
    from server.migrating import run_migrate

    _run(run_migrate(source, to))


@app.command()
def templates(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of templates, each a folder with a template.json. Left out: the package's."),
    ] = None,
) -> None:
    """Check templates as the server does when it starts, and list them. The first that is broken: exit code 2.

    1. Write my-templates/my-template/template.json. The README says how, and the package's own are examples.

    2. orch8-cloud templates my-templates

    3. Start the server with ORCH8_TEMPLATE_DIRS='["my-templates"]'
    """
    from server.templating import list_templates

    typer.echo(list_templates(folder))


@app.command()
def settings() -> None:
    """List every setting of every part, as a Markdown table."""
    from rest_bridge.settings import EdgeSettings, ProxySettings
    from server.settings import ServerSettings

    for title, kind in (("server", ServerSettings), ("proxy", ProxySettings), ("edge", EdgeSettings)):
        typer.echo(f"### {title}\n\n{kind.describe()}\n")


usage_commands = typer.Typer(help="What organizations have used of their plans.", no_args_is_help=True)
app.add_typer(usage_commands, name="usage")


@usage_commands.command()
def recompute(
    check: Annotated[bool, typer.Option("--check", help="Only compare. Exit code 1: something differs.")] = False,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Leave periods alone that began before this day (UTC)."),
    ] = None,
) -> None:
    """Count the executions of every period again, from the rows of runs, and set right what differs.

    It reads ORCH8_DATABASE_URL (or ORCH8_DATA_DIR) and ORCH8_PLANS_FILE, and may run beside the servers: runs that are
    reported meanwhile are counted once, and the proxies hear of organizations that may start runs again, or no more.
    Each difference is one line.

    Runs are deleted once a plan keeps them no longer. A period is left alone where some of its runs may be gone.
    """
    from server.recounting import run_recompute
    from server.settings import StoreSettings

    _run(run_recompute(StoreSettings.read(), check=check, since=since))


def main() -> None:
    """The entry point. A broken setting is one sentence and exit code 2."""
    try:
        app()
    except StartFailed as error:
        typer.echo(f"orch8-cloud: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

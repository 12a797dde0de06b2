"""The command line: each command says in a few lines what it does with which room; no logic lives here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from toolkit import __version__
from toolkit.bench.command import bench
from toolkit.bundle.command import bundle
from toolkit.chat.command import chat
from toolkit.deployment.command import deploy, release, rollback
from toolkit.errors import ThinkshipError
from toolkit.export.command import export
from toolkit.image_commands import images
from toolkit.inspection.command import inspect
from toolkit.making import command as making
from toolkit.options import ANYWHERE, ENGINES, RECIPE, RUNNER, STAGES, STORE, cluster
from toolkit.scoring import scoring


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="thinkship")
def cli() -> None:
    """From a fine-tuned reasoning model to servers that are proven to think."""


@cli.command()
@RECIPE
def validate(recipe: Path) -> None:
    """Check a recipe and say everything that is wrong with it."""
    from toolkit import console, recipe_file

    loaded = recipe_file.load(recipe)
    console.say(f"{recipe}: a valid recipe for {loaded.serve.name}")


@cli.command()
@RECIPE
@click.option("--engine", "engines", multiple=True, type=ENGINES, help="Plan for these engines instead of the recipe's.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
@STORE
def plan(recipe: Path, engines: tuple[Any, ...], as_json: bool, store: Path) -> None:
    """Print the steps that `run` would take, with their ids."""
    from toolkit import console, runs

    steps = runs.steps(recipe, engines)
    if as_json:
        console.emit_json([runs.described(step) for step in steps])
    else:
        console.show(runs.table(steps, store))


@cli.command()
@RECIPE
def lock(recipe: Path) -> None:
    """Ask the hubs anew for a recipe's model and rows, and write commits and checksums to NAME.lock.json beside it."""
    from toolkit import runs

    runs.lock(recipe)


@cli.command()
@RECIPE
@click.option("--engine", "engines", multiple=True, type=ENGINES, help="Serve and verify with these engines instead of the recipe's.")
@click.option("--until", "last", type=STAGES, help="Stop after this stage.")
@click.option("--dry-run", "dry", is_flag=True, help="Print the steps and run nothing.")
@click.option("--reclaim", is_flag=True, help="Free merged weights and GGUF files that are not served as soon as no later step needs them.")
@ANYWHERE
@cluster
@STORE
def run(recipe: Path, engines: tuple[Any, ...], last: str | None, store: Path, runner: str, dry: bool, reclaim: bool, **cluster: Any) -> None:
    """Run a recipe from base model to verified servers; what is done is not done again."""
    from toolkit import runs

    runs.start(recipe, engines, last, store, runs.How(runner, dry, reclaim, cluster))


@cli.command()
@RECIPE
@click.option("--engine", required=True, type=ENGINES, help="Which server.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port on 127.0.0.1; the engine's usual one if not given.")
@click.option("--variant", help="Quantisation to serve; the recipe's if not given.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with the key that every request must bear (vllm, llamacpp).")
@RUNNER
@STORE
def serve(recipe: Path, engine: Any, store: Path, **how: Any) -> None:
    """Make what is missing, start an engine in the background and wait until it answers."""
    from toolkit import service

    service.serve(recipe, engine, store, **how)


@cli.command()
@STORE
def stop(store: Path) -> None:
    """Stop every server that `serve` started."""
    from toolkit import service

    service.stop(store)


@cli.command()
@click.option("--lines", type=click.IntRange(1), default=40, show_default=True, help="How many of each server.")
@STORE
def logs(lines: int, store: Path) -> None:
    """Print the last lines of every server that `serve` started."""
    from toolkit import service

    service.logs(lines, store)


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--url", help="An OpenAI-compatible endpoint, as http://host:port/v1.")
@click.option("--model", help="The name the endpoint serves the model by.")
@click.option("--engine", type=ENGINES, help="What the endpoint runs on, where known.")
@click.option("--model-dir", type=click.Path(path_type=Path), help="HF checkpoint, to compare prompts with its chat template.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True, help="Seconds one answer may take.")
@click.option("--soak", type=click.IntRange(50), metavar="N", help="Send N short requests too, and see whether the server's memory stays flat.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write report.json here.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write report.html here.")
@click.option("--junit", "junit_file", type=click.Path(path_type=Path), help="Write the checks here as JUnit XML, for CI systems.")
@scoring
@STORE
def verify(recipe: Path | None, store: Path, **endpoint: Any) -> None:
    """Prove that what is served thinks, stops and sees the right prompt: a recipe's engines, or any endpoint."""
    from toolkit import service

    service.verify(recipe, store, **endpoint)


@cli.command()
@click.argument("place", metavar="STORE_OR_REPORT", type=click.Path(path_type=Path), required=False)
@click.option("--compare", "pair", nargs=2, type=click.Path(path_type=Path), help="Say how the second of two differs; exit 6 where it is worse.")
@click.option("--html", type=click.Path(path_type=Path), help="Write report.html here.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the checks here as JUnit XML, for CI systems.")
@click.option("--size-limit", type=click.FloatRange(0, min_open=True), metavar="MB", help="Recommend the best GGUF file of at most this size.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison for programs.")
def report(place: Path | None, pair: tuple[Path, Path] | None, html: Path | None, junit: Path | None, **rest: Any) -> None:
    """Show a report again, of a store or of a report.json, or compare two."""
    from toolkit import report as room

    room.open_report(place, pair, room.Files(html=html, junit=junit), **rest)


SECONDS = click.FloatRange(0, 3600, min_open=True)


def probing(command: Any) -> Any:
    """Give a command the options that say whom to probe and how long that may take."""
    for option in (
        STORE,
        click.option(
            "--max-tokens", type=click.IntRange(1), default=4, show_default=True, help="Tokens of the answer: more show how long it thinks."
        ),
        click.option("--timeout", type=SECONDS, default=5.0, show_default=True, help="Seconds that one probe may take, all in all."),
        click.option("--api-key-file", type=click.Path(path_type=Path), help="File with the API key; OPENAI_API_KEY if not given."),
        click.option("--model", help="Served name; the endpoint's first if not given."),
        click.option("--url", help="Endpoint, as http://host:port/v1; the running server's if not given."),
    ):
        command = option(command)
    return command


@cli.command()
@probing
@click.option("--json", "shape", flag_value="json", help="Print for programs.")
@click.option("--nagios", "shape", flag_value="nagios", help="Print and end as a Nagios plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.")
@click.option("--warn", type=SECONDS, help="With --nagios, WARNING for a probe that takes longer than these seconds.")
def health(shape: Any, warn: float | None, **whom: Any) -> None:
    """Ask one question and say within a second whether the model answers and thinks; exit 0, 4 or 6."""
    from toolkit import monitor

    monitor.health(monitor.Whom(**whom), shape or "text", warn)


@cli.command()
@probing
@click.option("--every", type=SECONDS, default=30.0, show_default=True, help="Seconds from one probe to the next.")
@click.option("--port", type=click.IntRange(0, 65535), default=9177, show_default=True, help="Port of the metrics; 0 takes a free one.")
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address at which the metrics can be read.")
@click.option("--once", is_flag=True, help="Probe once, print the metrics, and end with the exit code of `health`.")
def watch(once: bool, every: float, port: int, bind: str, **whom: Any) -> None:
    """Probe again and again, say when the model stops answering or thinking, and serve Prometheus metrics at /metrics."""
    from toolkit import monitor

    if once:
        monitor.watch_once(monitor.Whom(**whom))
    else:
        monitor.watch(monitor.Whom(**whom), monitor.Rounds(every, bind, port))


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--card", help="Say what fits this card, as 'RTX 4090' or 24GiB, instead of the machine's own.")
@click.option("--reclaim", is_flag=True, help="Count the disk that `run --reclaim` takes.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
@STORE
def doctor(recipe: Path | None, as_json: bool, store: Path, **how: Any) -> None:
    """Look at the machine before anything is downloaded: tools, memory, disk, ports, GPU, and what a recipe asks of them."""
    from toolkit import doctor as room

    room.report(recipe, store, as_json, **how)


@cli.group()
def data() -> None:
    """Make and look at chain-of-thought data."""


data.add_command(inspect)
data.add_command(making.make)
for command in (bench, bundle, chat, deploy, export, images, release, rollback):
    cli.add_command(command)


@cli.command()
@click.option("--check", is_flag=True, help="Write nothing; fail where one of them is not what the code says.")
def docs(check: bool) -> None:
    """Write docs/reference.md (commands, recipe keys, errors, exit codes) and the schemas of report.json and release.json from the code."""
    from toolkit import reference

    reference.write(check, cli)


def main() -> None:
    """Run the command line; every foreseen failure is two lines and its exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted; run the same command again to go on\n")
        sys.exit(130)
    except ThinkshipError as error:
        from toolkit import console

        console.error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

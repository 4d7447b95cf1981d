"""`sti`: packages models, brings them to devices and asks them."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from host import display
from host.agent_session import agent_session, only_store
from host.client import AgentClient, Classifications, Embeddings, RunOptions, Text
from host.device import Device
from host.local_device import LocalDevice
from host.push import push
from host.store_summary import summarize
from shard_store.errors import RequestError, StiError
from shard_store.geometry import BITWIDTHS
from shard_store.manifest import DEFAULT_SEQUENCES
from shard_store.reader import Store

app = typer.Typer(
    name="sti", help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip
agent_app = typer.Typer(help="Start and stop the agent of a device.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(agent_app, name="agent")


class DeviceKind(str, Enum):
    """Where an agent runs."""

    LOCAL = "local"


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 2,4,8") from None


StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DeviceOption = Annotated[DeviceKind, typer.Option(help="Kind of device.")]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the local device (default: $STI_HOME, or sti in the user's data folder).")
]


@app.command("package")
def package_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model directory, or a name on the Hugging Face hub.")],
    *,
    out: Annotated[Path, typer.Option(metavar="STORE", help="Folder to write.")],
    bits: Annotated[str, typer.Option(help="Bitwidths to store.")] = ",".join(map(str, BITWIDTHS)),
    slices: Annotated[
        int | None, typer.Option(min=1, help="Slices per layer (default: one per attention head).")
    ] = None,
    seq: Annotated[str, typer.Option(help="Sequence lengths to make templates for.")] = ",".join(
        map(str, DEFAULT_SEQUENCES)
    ),
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="TEXTS", help="Unlabelled texts, one a line, that make low bitwidths more accurate."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model (default: the last part of its directory or hub name).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a model into shards at several bitwidths and write them as a store."""
    bitwidths, sequences = _numbers(bits), _numbers(seq)
    from host.package import PackageOptions, package  # noqa: PLC0415 - it imports TensorFlow, which takes seconds

    with display.progress_bar() as progress:
        report = package(model, out, PackageOptions(bitwidths, slices, sequences, calibrate, name), progress)
    (display.print_json if as_json else display.print_fields)(report)


@app.command("inspect")
def inspect_command(
    store: StoreArgument,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and check it against its checksums.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a store holds."""
    summary = summarize(store)
    if verify:
        with display.progress_bar() as progress, Store.open(store) as opened:
            opened.verify(progress)
        typer.echo("verified: every byte is as it was written", err=True)
    (display.print_json if as_json else display.print_summary)(summary)


@app.command("push")
def push_command(
    store: StoreArgument,
    device: DeviceOption = DeviceKind.LOCAL,
    root: RootOption = None,
    name: Annotated[str | None, typer.Option(help="Name on the device (default: the model's).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a store to a device, verify it there, then replace an older version."""
    with display.progress_bar() as progress:
        report = push(store, _device(device, root), progress, name)
    (display.print_json if as_json else display.print_fields)(report)


@app.command("infer")
def infer_command(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts to embed or classify.")],
    *,
    url: Annotated[str | None, typer.Option(help="Agent to ask, instead of a device's.")] = None,
    device: DeviceOption = DeviceKind.LOCAL,
    root: RootOption = None,
    store: Annotated[
        str | None, typer.Option(metavar="NAME", help="Store on the device (default: its only one).")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bitwidth of every shard.")] = None,
    layers: Annotated[int | None, typer.Option(help="How many of the layers, from the bottom.")] = None,
    slices: Annotated[int | None, typer.Option(help="How many slices of every layer.")] = None,
    pair: Annotated[bool, typer.Option("--pair", help="Take the texts two by two.")] = False,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut off what is too long.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a model. Without a running agent, one is started on the device and stopped again."""
    inputs: list[Text] = list(_pairs(texts)) if pair else list(texts)
    options = RunOptions(bits, layers, slices, truncate)
    if url:
        answer = _ask(url, inputs, options)
    else:
        with agent_session(_device(device, root), store) as session_url:
            answer = _ask(session_url, inputs, options)
    if as_json:
        display.print_json(answer)
    else:
        display.print_answer(answer, [item if isinstance(item, str) else " | ".join(item) for item in inputs])


@agent_app.command("start")
def start_command(
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of `sti-agent serve`, after --.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="NAME", help="Store on the device (default: its only one).")
    ] = None,
    device: DeviceOption = DeviceKind.LOCAL,
    root: RootOption = None,
) -> None:
    """Start the agent on a store and print its URL once the model is loaded."""
    target = _device(device, root)
    typer.echo(target.start_agent(store or only_store(target), options or ()))


@agent_app.command("stop")
def stop_command(device: DeviceOption = DeviceKind.LOCAL, root: RootOption = None) -> None:
    """Stop the agent."""
    typer.echo("stopped" if _device(device, root).stop_agent() else "no agent was running")


@agent_app.command("status")
def status_command(
    device: DeviceOption = DeviceKind.LOCAL, root: RootOption = None, as_json: JsonOption = False
) -> None:
    """Show the running agent and its memory."""
    agent = _device(device, root).agent()
    if agent is None:
        typer.echo("no agent is running")
        raise typer.Exit(1)
    with AgentClient(agent.url) as client:
        health = client.health()
    if not as_json:
        display.print_fields(agent)
    (display.print_json if as_json else display.print_fields)(health)


def _device(kind: DeviceKind, root: Path | None) -> Device:
    assert kind is DeviceKind.LOCAL
    return LocalDevice(root)


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    if len(texts) % 2:
        raise typer.BadParameter(f"--pair takes an even number of texts, not {len(texts)}")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _ask(url: str, inputs: list[Text], options: RunOptions) -> Embeddings | Classifications:
    with AgentClient(url) as client:
        if client.model().head != "embedding":
            return client.classify(inputs, options)
        texts = [text for text in inputs if isinstance(text, str)]
        if len(texts) < len(inputs):
            raise RequestError("this model embeds single texts; leave --pair out")
        return client.embed(texts, options)


def main() -> None:
    """Entry point. Exits 1 with one line on standard error for what the user can mend, 2 for wrong usage."""
    try:
        app()
    except StiError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"{error.filename or 'this machine'}: {error.strerror or error}; free space or choose another folder")


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()

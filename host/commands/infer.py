"""`sti infer`."""

from typing import Annotated

import typer

from host import display
from host.adb.connection import Via
from host.agent_device import LOCAL, DeviceChoice, agent_device
from host.agent_session import agent_session
from host.client import AgentClient, Classifications, Embeddings, RunOptions, Text
from host.commands.options import JsonOption, PythonOption, RootOption, TargetOption, ViaOption
from shard_store.errors import RequestError


def infer_command(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts to embed or classify.")],
    *,
    url: Annotated[str | None, typer.Option(help="Agent to ask, instead of a device's.")] = None,
    device: TargetOption = None,
    via: ViaOption = Via.DIRECT,
    root: RootOption = None,
    python: PythonOption = None,
    store: Annotated[
        str | None, typer.Option(metavar="NAME", help="Store on the device (default: its only one).")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bitwidth of every shard.")] = None,
    layers: Annotated[int | None, typer.Option(help="How many of the layers, from the bottom.")] = None,
    slices: Annotated[int | None, typer.Option(help="How many slices of every layer.")] = None,
    target_ms: Annotated[
        float | None, typer.Option(help="Time in which to answer: the planner chooses layers, slices and bitwidths.")
    ] = None,
    memory_mb: Annotated[float | None, typer.Option(help="Memory that this run may take, in MiB.")] = None,
    pair: Annotated[bool, typer.Option("--pair", help="Take the texts two by two.")] = False,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut off what is too long.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a model. Without a running agent, one is started on the device and stopped again."""
    inputs: list[Text] = list(_pairs(texts)) if pair else list(texts)
    options = RunOptions(bits, layers, slices, truncate, target_ms=target_ms, memory_mb=memory_mb)
    if url:
        answer = _ask(url, inputs, options)
    else:
        choice = DeviceChoice(device or LOCAL, via, root, python)
        with agent_device(choice) as target, agent_session(target, store) as session_url:
            answer = _ask(session_url, inputs, options)
    if as_json:
        display.print_json(answer)
    else:
        display.print_answer(answer, [item if isinstance(item, str) else " | ".join(item) for item in inputs])


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

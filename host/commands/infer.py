"""`sti infer`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from host import display
from host.adb.connection import Via
from host.agent_device import LOCAL, DeviceChoice, agent_device
from host.agent_session import agent_session
from host.client import AgentClient, Classifications, Embeddings, RunOptions, Text
from host.commands.options import JsonOption, PythonOption, RootOption, TargetOption, ViaOption
from host.text_generation import GeneratedTexts, TextOptions, generate_text
from shard_store.errors import RequestError


@dataclass(frozen=True, slots=True)
class _Asked:
    inputs: list[Text]
    options: RunOptions
    text_options: TextOptions
    as_json: bool

    @property
    def singles(self) -> list[str]:
        return [text for text in self.inputs if isinstance(text, str)]

    def check(self, *, generates: bool) -> None:
        """Refuse options that the model's task has no use for, rather than ignore them."""
        options, text = self.options, self.text_options
        others = TextOptions(bits=text.bits, layers=text.layers, slices=text.slices, target_ms=text.target_ms)
        if not generates and text != others:
            raise RequestError(
                "--chat, --max-tokens, --temperature, --top-p, --top-k, --seed and --stop are for models that generate "
                "text; leave them out"
            )
        pairs = len(self.singles) < len(self.inputs)
        if generates and (pairs or options.truncate or options.memory_mb is not None):
            raise RequestError("this model generates text; leave --pair, --truncate and --memory-mb out")


def infer_command(
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Texts to embed, classify or continue, or image files.")
    ],
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
        float | None,
        typer.Option(help="Time in which to answer, or to make a token: the planner chooses what runs."),
    ] = None,
    memory_mb: Annotated[float | None, typer.Option(help="Memory that this run may take, in MiB.")] = None,
    pair: Annotated[bool, typer.Option("--pair", help="Take the texts two by two.")] = False,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut off what is too long.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Of models that generate: take the text as a message.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Of models that generate: at most so many tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of models that generate: 0 is greedy (default: 1).")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Of models that generate: share of the likeliest tokens.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Of models that generate: number of likeliest tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of models that generate: the same seed, the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Of models that generate: end before this string.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a model. Without a running agent, one is started on the device and stopped again."""
    inputs: list[Text] = list(_pairs(texts)) if pair else list(texts)
    asked = _Asked(
        inputs,
        RunOptions(bits, layers, slices, truncate, target_ms=target_ms, memory_mb=memory_mb),
        TextOptions(
            chat, max_tokens, temperature, top_p, top_k, seed, tuple(stop or ()), bits, layers, slices, target_ms
        ),
        as_json,
    )
    if url:
        _infer(url, asked)
    else:
        choice = DeviceChoice(device or LOCAL, via, root, python)
        with agent_device(choice) as target, agent_session(target, store) as session_url:
            _infer(session_url, asked)


def _infer(url: str, asked: _Asked) -> None:
    """Ask what the model is for, and print."""
    with AgentClient(url) as client:
        model = client.model()
        asked.check(generates=model.head == "language_model")
        if model.head == "language_model":
            _generate(client, asked)
            return
        answer = _classify_images(client, asked) if model.family == "vit" else _answer(client, asked, model.head)
    if asked.as_json:
        display.print_json(answer)
    else:
        display.print_answer(answer, [item if isinstance(item, str) else " | ".join(item) for item in asked.inputs])


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    if len(texts) % 2:
        raise typer.BadParameter(f"--pair takes an even number of texts, not {len(texts)}")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _answer(client: AgentClient, asked: _Asked, head: str) -> Embeddings | Classifications:
    if head != "embedding":
        return client.classify(asked.inputs, asked.options)
    if len(asked.singles) < len(asked.inputs):
        raise RequestError("this model embeds single texts; leave --pair out")
    return client.embed(asked.singles, asked.options)


def _classify_images(client: AgentClient, asked: _Asked) -> Classifications:
    files = []
    for path in asked.singles:
        try:
            files.append(Path(path).read_bytes())
        except OSError as error:
            raise RequestError(
                f"{path}: cannot be read ({error.strerror}); this model reads PNG and JPEG files"
            ) from error
    return client.classify_images(files, asked.options)


def _generate(client: AgentClient, asked: _Asked) -> None:
    """Texts stream to standard output as they come; with --json they are printed when all are there."""
    texts = []
    for prompt in asked.singles:
        texts.append(
            generate_text(client, prompt, asked.text_options, _silent if asked.as_json else display.print_piece)
        )
        if not asked.as_json:
            display.end_text(texts[-1])
    if asked.as_json:
        display.print_json(GeneratedTexts(tuple(texts)))


def _silent(_piece: str) -> None:
    """Printed later."""

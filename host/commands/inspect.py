"""`sti inspect`."""

from typing import Annotated

import typer

from host import display
from host.commands.options import JsonOption, StoreArgument
from host.store_summary import summarize
from shard_store.reader import Store


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

"""An agent to ask: the one that runs, or one that is started for as long as it is needed."""

from collections.abc import Iterator
from contextlib import contextmanager

from host.device import Device
from host.versions import store_names
from shard_store.errors import DeviceError


@contextmanager
def agent_session(device: Device, store: str | None = None) -> Iterator[str]:
    """URL of the agent that runs on the device; without one, an agent on `store` runs inside the block only.

    store: may be None if the device has but one. Raises DeviceError, also if the running agent serves another store.
    """
    running = device.agent()
    if running:
        if store not in {None, running.store}:
            raise DeviceError(f"the agent at {running.url} serves {running.store!r}; stop it with `sti agent stop`")
        yield running.url
        return
    url = device.start_agent(store or only_store(device))
    try:
        yield url
    finally:
        device.stop_agent()


def only_store(device: Device) -> str:
    """The name of the device's only store. Raises DeviceError if there are none or several."""
    names = store_names(device)
    if len(names) != 1:
        raise DeviceError(
            f"the device has {len(names)} stores ({', '.join(names)}); name one with --store"
            if names
            else "the device has no store; push one with `sti push`"
        )
    return names[0]

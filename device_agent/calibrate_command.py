"""`sti-agent calibrate`: measures what reading, preparing and executing cost on this device."""

import argparse
import sys
from dataclasses import replace

from device_agent.arguments import engine_options
from device_agent.costs_file import costs_to_json, write_costs
from device_agent.engine import Engine
from device_agent.interpreter import prefer_latency


def calibrate(options: argparse.Namespace) -> None:
    """Measure with a store's model; write the file, or standard output. Raises StiError."""
    with Engine(options.store, replace(engine_options(options), costs_path=None)) as engine:
        prefer_latency()
        costs = engine.calibrate(_show)
    sys.stderr.write("\n")
    if options.costs is None:
        sys.stdout.write(costs_to_json(costs) + "\n")
    else:
        write_costs(options.costs, costs)
        sys.stdout.write(f"{options.costs}\n")


def _show(what: str, done: int, total: int) -> None:
    sys.stderr.write(f"\r\x1b[K{done:3d} of {total}  {what}")
    sys.stderr.flush()

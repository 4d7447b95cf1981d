"""Costs that were measured before, if they are of this device and model."""

from pathlib import Path

from device_agent.costing.measure import Progress, Trials, measure_costs, model_digest
from device_agent.costs import DeviceCosts
from device_agent.costs_file import read_costs, write_costs
from shard_store.errors import CostsError


def known_costs(path: Path | None, trials: Trials, progress: Progress) -> DeviceCosts:
    """From the file, or measured and written to it. Raises CostsError for a file of another device or model."""
    if path is None:
        return measure_costs(trials, progress)
    if not path.exists():
        costs = measure_costs(trials, progress)
        write_costs(path, costs)
        return costs
    costs = read_costs(path)
    if costs.device != trials.device:
        raise CostsError(
            f"device costs {path}: measured on {costs.device!r}, this is {trials.device!r}; remove the file or "
            "name another"
        )
    if costs.model != model_digest(trials.manifest):
        raise CostsError(f"device costs {path}: measured with a model of other sizes; remove the file or name another")
    return costs

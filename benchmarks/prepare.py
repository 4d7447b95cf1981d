"""Time to make a layer ready in place that is in memory as stored: at once, and after a rest, as requests find it.

Run as `python -m benchmarks.prepare STORE`. Times are of one thread; nothing is read from flash.
"""

import argparse
import time
from pathlib import Path
from statistics import median

from device_agent.costing.trials import REST_S
from device_agent.inplace import InPlaceExecutor
from device_agent.litert import Runtime
from device_agent.loading import LayerSource, LoadingAgent
from device_agent.plan import LayerPlan, Plan, Residency
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.reader import ShardReader, Store

_WARM_UP, _REPEATS = 5, 60


def prepare_ms(source: LayerSource, layer: LayerPlan, sequence: int, rest_s: float) -> float:
    """Median time to prepare a layer whose shards are in memory."""
    source.executor.begin_pass(Plan((layer,)), sequence)
    agent, preloaded = LoadingAgent(source), source.preload(layer)
    taken = []
    for _ in range(_WARM_UP + _REPEATS):
        time.sleep(rest_s)
        loaded = agent.load(layer, sequence, 0, preloaded)
        taken.append(loaded.prepare_ms)
        source.executor.release(loaded.handle)
    return median(taken[_WARM_UP:])


def main() -> None:
    """Print a table: a row for each lattice bitwidth of the store, columns by number of slices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    path = parser.parse_args().store
    with Runtime() as runtime, Store.open(path) as store, ShardReader(store) as reader:
        source = LayerSource(store, reader, InPlaceExecutor(runtime))
        sequence, slices = max(store.manifest.description.sequences), store.manifest.geometry.slices
        widths = sorted({1, -(-slices // 2), slices})
        print(f"ms at once, and after {REST_S * 1e3:.0f} ms of rest, at {', '.join(map(str, widths))} slices")
        for bits in (bits for bits in store.manifest.bitwidths if bits != EXACT_BITWIDTH):
            layers = [LayerPlan(0, (bits,) * width, Residency.STREAMED) for width in widths]
            rows = ((prepare_ms(source, layer, sequence, rest_s) for layer in layers) for rest_s in (0.0, REST_S))
            print(f"{bits} bits  ", "   ".join("  ".join(f"{ms:6.3f}" for ms in row) for row in rows))
        source.executor.close()


if __name__ == "__main__":
    main()

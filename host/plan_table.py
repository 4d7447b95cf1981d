"""A planned run as a table."""

from rich.table import Table

from host.display import MIB, out
from host.plan_preview import Preview


def print_preview(preview: Preview) -> None:
    """Layer by layer, then what the run is expected to take."""
    layers = Table("layer", "bits", "residency", "agent", "read ms", "prepare ms", "execute ms", "ends at ms")
    for layer in preview.layers:
        agent = "" if layer.agent is None else str(layer.agent + 1)
        times = (layer.read_ms, layer.prepare_ms, layer.execute_ms, layer.ends_ms)
        layers.add_row(str(layer.layer), layer.bits, layer.residency, agent, *(f"{ms:.2f}" for ms in times))
    out().print(layers)
    choice, plan = preview.choice, preview.choice.plan
    whole = Table("", "predicted", "asked")
    target = "any" if preview.target_ms is None else f"{preview.target_ms:g}"
    whole.add_row("latency, ms", f"{choice.predicted_ms:.2f}", target)
    whole.add_row("peak memory, MiB", f"{choice.predicted_peak_bytes / MIB:.2f}", f"{preview.budget_bytes / MIB:g}")
    whole.add_row("loss, nats", f"{choice.predicted_loss:.4f}", "least")
    out().print(whole)
    out().print(
        f"{preview.model}: {len(plan.layers)} layers x {plan.slices} slices, sequence {preview.sequence}, "
        f"{plan.loading_agents} loading agents, {plan.layers_in_flight} layers in flight, on {preview.device}",
        soft_wrap=True,
    )
    if choice.reason:
        out().print(choice.reason, soft_wrap=True)

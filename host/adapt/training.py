"""The training loop: step by step, saved every so often, continued where it was."""

import math
from collections import deque
from pathlib import Path

from host.adapt.batches import BatchSource
from host.adapt.model import ElasticClassifier
from host.adapt.objective import Objective
from host.adapt.optimizer import AdamW, assign
from host.adapt.options import AdaptOptions
from host.adapt.saved_state import SavedState, load_state, save_state
from host.display import Report
from shard_store.errors import TrainingError

_SHOWN_STEPS = 50  # what is shown is the mean of the last ones


def train(
    model: ElasticClassifier, objective: Objective, data: BatchSource, options: AdaptOptions,
    *, state: Path, stage: str, progress: Report,
) -> None:  # fmt: skip
    """Train the model's variables, from the saved state on if there is one; the last state is saved too.

    Raises:
        TrainingError: the loss is not finite, or the saved state is damaged.
    """
    optimizer = AdamW(model.variables, options.steps, options.learning_rate)
    variables = {**model.variables, **optimizer.state}
    start = 0
    if state.exists():
        saved = load_state(state, {name: tuple(variable.shape) for name, variable in variables.items()})
        assign(variables, saved.values)
        start = saved.step
    losses: deque[float] = deque(maxlen=_SHOWN_STEPS)
    hits: deque[float] = deque(maxlen=_SHOWN_STEPS)
    batches = data.shuffled(options.batch, options.seed, start)
    progress(stage, start, options.steps)
    for step in range(start, options.steps):
        result = objective.gradients(step, next(batches))
        if not math.isfinite(result.loss):
            raise TrainingError(f"the loss is {result.loss} at step {step}; give a lower --learning-rate")
        optimizer.step(step, result.gradients)
        losses.append(result.loss)
        hits.append(result.accuracy)
        loss, accuracy = sum(losses) / len(losses), 100 * sum(hits) / len(hits)
        done = step + 1
        progress(f"{stage}: loss {loss:.3f}, accuracy {accuracy:.1f} %", done, options.steps)
        if done % options.save_every == 0 or done == options.steps:
            save_state(state, SavedState(done, {name: variable.numpy() for name, variable in variables.items()}))

"""Predicted loss of quality of a plan."""

import math

from device_agent.plan import Plan
from shard_store.profile import Profile


def predicted_loss(profile: Profile, plan: Plan) -> float:
    """Nats lost against the whole model: that of the submodel, and that of each shard at its bitwidth."""
    submodel = profile.submodel_loss[len(plan.layers) - 1][plan.slices - 1]
    shards = (key for layer in plan.layers for key in layer.shards())
    return math.fsum([submodel, *(profile.shard_loss[key.bitwidth][key.layer][key.slice] for key in shards)])

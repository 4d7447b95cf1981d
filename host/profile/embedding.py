"""A batch's first hidden states, from a store's tables: as the device computes them."""

import numpy as np
import numpy.typing as npt

from device_agent.pixels import embed_patches, patches_of, pixels_of
from host.profile.batch import Batch, ImageBatch, TokenBatch
from host.profile.stored_model import StoredModel
from shard_store.layer_spec import NormPosition

Floats = npt.NDArray[np.float32]


def embed(model: StoredModel, batch: Batch) -> Floats:
    """(inputs, seq, hidden)"""
    return _embed_images(model, batch) if isinstance(batch, ImageBatch) else _embed_texts(model, batch)


def _embed_texts(model: StoredModel, batch: TokenBatch) -> Floats:
    store, tables = model.store, model.store.manifest.row_tables
    shape = (*batch.ids.shape, model.geometry.hidden)
    summed = store.rows("word", batch.ids.reshape(-1)).reshape(shape)
    if "position" in tables:  # there is none where positions are rotary
        summed += store.rows("position", np.arange(shape[1]) + store.manifest.description.position_offset)
    if "token_type" in tables:
        summed += store.rows("token_type", batch.types.reshape(-1)).reshape(shape)
    if model.geometry.spec.norm_position is NormPosition.BEFORE:
        return summed
    return np.asarray(model.norm(summed, "embedding_norm"))


def _embed_images(model: StoredModel, batch: ImageBatch) -> Floats:
    image = model.store.manifest.description.image
    assert image is not None
    positions = model.store.rows("position", np.arange(image.patches + 1))
    patches = (patches_of(pixels_of(values, image), image) for values in batch.pixels)
    return np.stack([embed_patches(one, model.tensors, positions) for one in patches])

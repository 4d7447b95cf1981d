"""Causal attention over a cache, in numpy: what lies between the two graphs of a decoder's layer."""

import numpy as np
import numpy.typing as npt

from device_agent.key_values import KeyValueCache

Floats = npt.NDArray[np.float32]

_HIDDEN = np.float32(-1e9)  # the score of a token that lies ahead


def attend(query: Floats, key: Floats, value: Floats, cache: KeyValueCache, layer: int, *, start: int) -> Floats:
    """One text's new tokens over all that came before: (tokens, features) -> (tokens, query features).

    query: (tokens, heads, width); key, value: (tokens, kv_heads, width), with their positions applied; start: tokens of
    the text that came before, which the cache has.
    """
    tokens, heads, width = query.shape
    kv_heads = key.shape[1]
    keys, values = cache.write(layer, start, key.transpose(1, 0, 2), value.transpose(1, 0, 2))  # (kv_heads, all, width)
    # the query heads that share a KV head lie behind one another: (kv_heads, group * tokens, width)
    grouped = query.transpose(1, 0, 2).reshape(kv_heads, -1, width)
    scores = np.matmul(grouped, keys.transpose(0, 2, 1)) * np.float32(width**-0.5)  # (kv_heads, group * tokens, all)
    if tokens > 1:
        ahead = np.arange(keys.shape[1]) > start + np.arange(tokens)[:, None]  # (tokens, all)
        scores.reshape(kv_heads, -1, *ahead.shape)[:, :, ahead] = _HIDDEN
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    attended = np.matmul(scores, values).reshape(heads, tokens, width)
    return np.ascontiguousarray(attended.transpose(1, 0, 2)).reshape(tokens, heads * width)


def turn(x: Floats, positions: npt.NDArray[np.integer], frequencies: Floats) -> Floats:
    """Apply rotary positions (Su et al. 2021): x (tokens, heads, width), feature f paired with f + width / 2."""
    angles = positions.astype(np.float32)[:, None] * frequencies  # (tokens, width / 2)
    cosine, sine = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate((first * cosine - second * sine, second * cosine + first * sine), axis=-1)

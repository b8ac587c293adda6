"""The language model again: float64 loops over one token, one head and one key at a time."""

import math

import numpy as np


def rope_frequency(pair: int, head_dim: int, base: float, scaling=None) -> float:
    """Radians a position, by the three cases of Llama 3's reference code."""
    frequency = base ** (-2 * pair / head_dim)
    if scaling is None:
        return frequency
    wavelength = 2 * math.pi / frequency
    context = scaling.original_max_position_embeddings
    if wavelength < context / scaling.high_freq_factor:
        return frequency
    if wavelength > context / scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = (context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def rotate(head, position: int, base: float, scaling=None) -> np.ndarray:
    """Pair (i, i + Dh/2) as a complex number, times e^(i angle)."""
    half = len(head) // 2
    out = np.zeros(2 * half)
    for i in range(half):
        angle = position * rope_frequency(i, 2 * half, base, scaling)
        turned = complex(head[i], head[i + half]) * complex(math.cos(angle), math.sin(angle))
        out[i], out[i + half] = turned.real, turned.imag
    return out


def rms_norm(x, scale, epsilon: float) -> np.ndarray:
    return x / math.sqrt(sum(v * v for v in x) / len(x) + epsilon) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def hidden_states(params, tokens, config) -> np.ndarray:  # one row, i[T] -> f64[T, D]
    c, tree = config, params["params"]
    xs = [np.asarray(tree["embed"]["embedding"][t], np.float64) for t in tokens]
    for n in range(c.layers):
        xs = layer(xs, {k: at(v, n) for k, v in tree["layers"].items()}, c)
    final = np.asarray(tree["final_norm"]["scale"], np.float64)
    return np.stack([rms_norm(x, final, c.norm_epsilon) for x in xs])


def logits(params, hidden, config) -> np.ndarray:
    tree = params["params"]
    kernel = tree["embed"]["embedding"].T if config.tied_head else tree["head"]["kernel"]
    return hidden @ np.asarray(kernel, np.float64)


def at(tree, n: int):
    """Layer n of stacked parameters, float64."""
    if isinstance(tree, dict):
        return {key: at(value, n) for key, value in tree.items()}
    return np.asarray(tree[n], np.float64)


def layer(xs, p, c):
    a = p["attention"]
    keys, values, out = [], [], []
    for position, x in enumerate(xs):
        normed = rms_norm(x, p["attention_norm"]["scale"], c.norm_epsilon)

        def head(name, h, normed=normed):
            columns = slice(h * c.head_dim, (h + 1) * c.head_dim)
            bias = a[name]["bias"][columns] if c.qkv_bias else 0.0
            return normed @ a[name]["kernel"][:, columns] + bias

        def placed(name, h, position=position, head=head):
            it = head(name, h)
            if c.qk_norm:
                it = rms_norm(it, a[f"{name}_norm"]["scale"], c.norm_epsilon)
            return rotate(it, position, c.rope_base, c.rope_scaling)

        keys.append([placed("key", h) for h in range(c.kv_heads)])
        values.append([head("value", h) for h in range(c.kv_heads)])
        mixed = []
        for h in range(c.heads):
            mine, query = h // (c.heads // c.kv_heads), placed("query", h)
            weights = [math.exp(query @ k[mine] / math.sqrt(c.head_dim)) for k in keys]
            parts = [w * v[mine] for w, v in zip(weights, values, strict=True)]
            mixed.append(sum(parts) / sum(weights))
        x = x + np.concatenate(mixed) @ a["output"]["kernel"]
        normed, m = rms_norm(x, p["mlp_norm"]["scale"], c.norm_epsilon), p["mlp"]
        gated = silu(normed @ m["gate"]["kernel"]) * (normed @ m["up"]["kernel"])
        out.append(x + gated @ m["down"]["kernel"])
    return out

"""Shared by the trainings: Fashion-MNIST, its splits and views, layers in jax, checkpoints, safetensors.

The test split is opened by nothing here: accuracy on it is measured by `dnn-runner measure` alone.
"""

import gzip
import hashlib
import json
import pathlib
import pickle
import struct

import jax
import jax.numpy as jnp
import numpy as np

MODELS = pathlib.Path(__file__).resolve().parent.parent / "models"
SIDE = 28
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
# Mean and standard deviation of the training split's pixels, scaled to 0..1.
MEAN, STD = 0.2860, 0.3530
EPS = 1e-5  # of batch-norm
SHIFT = 2  # pixels an image is moved by at most, as augmentation


def load(folder, held_back):
    """(images, labels) of the training split without its last `held_back` images, and those."""
    read = lambda name, header: np.frombuffer(gzip.open(folder / name).read(), np.uint8, offset=header)
    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, SIDE, SIDE)
    labels = read("train-labels-idx1-ubyte.gz", 8).astype(np.int32)
    return (images[:-held_back], labels[:-held_back]), (images[-held_back:], labels[-held_back:])


def normalise(images):
    return ((images.astype(np.float32) / 255 - MEAN) / STD)[..., None]


class Views:
    """Random views of the training images: moved by up to SHIFT pixels (black comes in), and mirrored."""

    def __init__(self, images):
        padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
        self.windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), (1, 2))

    def take(self, rng, pick):
        dy, dx = rng.integers(0, 2 * SHIFT + 1, (2, len(pick)))
        x = self.windows[pick, dy, dx]
        mirror = rng.random(len(pick)) < 0.5
        return normalise(np.where(mirror[:, None, None], x[:, :, ::-1], x))


def conv(x, w):
    """3x3, padding 1. One input channel: as a product of patches, which XLA does four times faster."""
    if w.shape[2] > 1:
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    n, h, wd, _ = x.shape
    p = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([p[:, i : i + h, j : j + wd] for i in range(3) for j in range(3)], -1)
    return patches @ w.reshape(9, -1)


def batch_norm(x, gamma, beta):
    """By the batch's own statistics, which are returned too."""
    mean = x.mean((0, 1, 2))
    var = jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)
    return (x - mean) * (gamma * jax.lax.rsqrt(var + EPS)) + beta, (mean, var)


def pool(x):
    """2x2 maximum; an odd last row or column is left out."""
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def cross_entropy(out, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], 1).mean()


def rate_at(at, peak):
    """One cycle: up over the first tenth, then down along a cosine; `at` is 0 to 1."""
    return peak * (at / 0.1 if at < 0.1 else 0.5 * (1 + np.cos(np.pi * (at - 0.1) / 0.9)))


@jax.jit
def sgd(p, m, g, rate):
    """Nesterov momentum 0.9; weight decay 5e-4 on all but biases and batch-norm."""
    decay = {k: 5e-4 if k.endswith("weight") else 0.0 for k in p}
    g = {k: g[k] + decay[k] * p[k] for k in p}
    m = {k: 0.9 * m[k] + g[k] for k in p}
    return {k: p[k] - rate * (g[k] + 0.9 * m[k]) for k in p}, m


def save(path, state):
    """Atomically: a training stopped while it writes goes on from the checkpoint before."""
    part = path.with_suffix(".part")
    part.write_bytes(pickle.dumps(jax.tree.map(np.asarray, state)))
    part.replace(path)


def resume(path):
    """What `save` wrote; its plain numbers are plain numbers again."""
    return jax.tree.map(lambda v: v.item() if np.ndim(v) == 0 and hasattr(v, "item") else v, pickle.loads(path.read_bytes()))


def digest(tensors):
    """sha256 over the tensors' bytes, by name."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return sha.hexdigest()


def write_safetensors(path, tensors):
    """Length of the header, the header in JSON, the tensors."""
    header, data = {}, b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)

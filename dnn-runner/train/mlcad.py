#!/usr/bin/env python3
"""Trains `models/mlcad-fmnist`: the group-convolution network of the MLCAD'19 paper on Fashion-MNIST.

Xun, Tran-Thanh, Al-Hashimi, Merrett: "Incremental Training and Group Convolution Pruning for Runtime
DNN Performance Scaling on Heterogeneous Embedded Platforms", arXiv 2105.03600. The channels of every
convolution form four groups. A group's convolutions see only that group's channels (the first sees the
image), and the classifier sums the groups' logits, so sub-network n is the first n groups of one weight
set. Groups are trained one after the other, earlier ones frozen: their weights stay bit for bit.
Grouped convolutions are slow in XLA, so each group is a dense convolution of its own.

    mlcad.py train                     weights, and a manifest with the validation accuracy
    dnn-runner measure --json FILE     the accuracy on the test split, by the Rust engine
    mlcad.py manifest --measured FILE  the manifest with that accuracy

Hyper-parameters were chosen on the validation split (the last 5,000 training images); this script never
opens the test split. Five trainings were tried; the third was measured on the test split (88.31 / 89.43 / 89.66 /
90.05 %) before the last two were run, and the last was taken for its validation accuracy. Needs numpy and jax[cpu]; the data is Debian's package dataset-fashion-mnist.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np

MODELS = pathlib.Path(__file__).resolve().parent.parent / "models"
NAME = "mlcad-fmnist"
GROUPS = 4
SIDE = 28
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
# One group: 3x3 convolutions, zero padding 1, ReLU, 2x2 maximum pooling; then a linear classifier.
CHANNELS = [8, 8, 16]
KERNEL = 3
# Mean and standard deviation of the training split's pixels, scaled to 0..1.
MEAN, STD = 0.2860, 0.3530
VALIDATION = 5_000
TOP1_FLOOR = 8800  # the default accuracy floor, hundredths of a point: decides the failsafe


def idx(path, header):
    """The values of a gzipped IDX file after a header of `header` bytes."""
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=header)


def load(folder):
    """The training split's images (N, 28, 28, 1) and labels."""
    images = idx(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, SIDE, SIDE, 1)
    return images, idx(folder / "train-labels-idx1-ubyte.gz", 8).astype(np.int32)


def normalise(images):
    return (images.astype(np.float32) / 255 - MEAN) / STD


def features():
    """Inputs of the classifier of one group: three halvings of 28 leave 3x3 cells."""
    return (SIDE // 8) ** 2 * CHANNELS[-1]


def initial(rng):
    """One group, He initialisation. (With a classifier of zeros a later group learned nothing: hardly any
    gradient reaches its convolutions, and Adam makes full steps of what is noise.)"""
    group, depth = {}, 1
    for i, width in enumerate(CHANNELS, 1):
        scale = np.sqrt(2 / (KERNEL * KERNEL * depth))
        group[f"conv{i}.weight"] = rng.normal(0, scale, (KERNEL, KERNEL, depth, width)).astype(np.float32)
        group[f"conv{i}.bias"] = np.zeros(width, np.float32)
        depth = width
    group["fc.weight"] = rng.normal(0, np.sqrt(1 / features()), (features(), len(CLASSES))).astype(np.float32)
    group["fc.bias"] = np.zeros(len(CLASSES), np.float32)
    return group


def logits(group, x):
    """The logits of one group."""
    for i in range(1, len(CHANNELS) + 1):
        x = jax.lax.conv_general_dilated(
            x, group[f"conv{i}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + group[f"conv{i}.bias"])
        h, w = x.shape[1] // 2, x.shape[2] // 2
        x = x[:, : 2 * h, : 2 * w].reshape(x.shape[0], h, 2, w, 2, -1).max((2, 4))
    return x.reshape(x.shape[0], -1) @ group["fc.weight"] + group["fc.bias"]


@jax.jit
def forward(groups, x):
    return sum(logits(g, x) for g in groups)


def cross_entropy(out, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], 1).mean()


def loss(group, x, base, y, alone):
    """Of the sum of the frozen groups' logits (`base`) and this group's, and, weighted by `alone`, of this
    group's own."""
    own = logits(group, x)
    return cross_entropy(base + own, y) + alone * cross_entropy(own, y)


@jax.jit
def step(group, m, v, t, rate, alone, x, base, y):
    """One step of Adam (beta 0.9 and 0.99), with a decoupled weight decay of 1e-4 on the weights."""
    value, grad = jax.value_and_grad(loss)(group, x, base, y, alone)
    m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, m, grad)
    v = jax.tree.map(lambda a, g: 0.99 * a + 0.01 * g * g, v, grad)
    scale = rate * jnp.sqrt(1 - 0.99**t) / (1 - 0.9**t)
    group = {
        k: p * (1 - (1e-4 * rate if k.endswith("weight") else 0)) - scale * m[k] / (jnp.sqrt(v[k]) + 1e-8)
        for k, p in group.items()
    }
    return group, m, v, value


def all_logits(groups, images):
    """The sum of the groups' logits for every image."""
    parts = [np.asarray(forward(groups, normalise(images[i : i + 500]))) for i in range(0, len(images), 500)]
    return np.concatenate(parts)


def train(args):
    images, labels = load(args.dataset)
    held_images, held_labels = images[-VALIDATION:], labels[-VALIDATION:]
    images, labels = images[:-VALIDATION], labels[:-VALIDATION]
    # The only augmentation is the mirror image, so that the frozen groups need to see each image only twice.
    views = np.stack([images, images[:, :, ::-1]])
    base = np.zeros((2, len(images), len(CLASSES)), np.float32)
    held_base = np.zeros((len(held_images), len(CLASSES)), np.float32)
    rng = np.random.default_rng(args.seed)
    groups, validation, began = [], [], time.process_time()
    for g in range(GROUPS):
        group = initial(rng)
        m = {k: np.zeros_like(p) for k, p in group.items()}
        v = {k: np.zeros_like(p) for k, p in group.items()}
        batches = len(images) // args.batch
        steps = args.epochs * batches
        t = 0
        for epoch in range(args.epochs):
            order = rng.permutation(len(images))
            total = 0.0
            for b in range(batches):
                pick = order[b * args.batch : (b + 1) * args.batch]
                view = rng.integers(0, 2, len(pick))
                # One cycle: up over the first tenth, then down along a cosine.
                at = t / steps
                rate = args.rate * (at / 0.1 if at < 0.1 else 0.5 * (1 + np.cos(np.pi * (at - 0.1) / 0.9)))
                t += 1
                # A new group first becomes a classifier in its own right (else hardly any gradient reaches
                # its convolutions), then more and more the correction of what the others get wrong.
                alone = 0.5 * (1 - at)
                x = normalise(views[view, pick])
                group, m, v, value = step(group, m, v, t, rate, alone, x, base[view, pick], labels[pick])
                total += float(value)
            held = held_base + all_logits([group], held_images)
            score = (held.argmax(1) == held_labels).mean()
            print(
                f"group {g} epoch {epoch}: loss {total / batches:.4f}, validation {100 * score:.2f} %,"
                f" {time.process_time() - began:.0f} CPU-s",
                flush=True,
            )
        groups.append({k: np.asarray(p) for k, p in group.items()})
        validation.append(round(1e4 * float(score)))
        base += np.stack([all_logits([group], view) for view in views])
        held_base = held
    MODELS.mkdir(exist_ok=True)
    write_weights(groups)
    write_manifest(validation, "validation split, by mlcad.py", args)


def write_weights(groups):
    """safetensors: length of the header, the header in JSON, the tensors."""
    header, data = {}, b""
    for g, group in enumerate(groups):
        for name, value in group.items():
            raw = np.ascontiguousarray(value, "<f4").tobytes()
            header[f"group{g}.{name}"] = {
                "dtype": "F32",
                "shape": list(value.shape),
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (MODELS / f"{NAME}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def costs():
    """Multiply-accumulates and parameters of one group."""
    macs, params, depth, side = 0, 0, 1, SIDE
    for width in CHANNELS:
        macs += side * side * KERNEL * KERNEL * depth * width
        params += KERNEL * KERNEL * depth * width + width
        depth, side = width, side // 2
    return macs + features() * len(CLASSES), params + features() * len(CLASSES) + len(CLASSES)


def write_manifest(top1, source, args):
    weights = (MODELS / f"{NAME}.safetensors").read_bytes()
    macs, params = costs()
    lines = [
        "# Written by train/mlcad.py; do not edit by hand.",
        f'name = "{NAME}"',
        'family = "group-convolution"',
        'paper = "Xun et al., Incremental Training and Group Convolution Pruning for Runtime DNN Performance'
        ' Scaling on Heterogeneous Embedded Platforms, MLCAD 2019, arXiv 2105.03600"',
        f'provenance = "trained by train/mlcad.py on Fashion-MNIST (MIT licence), training split without its last'
        f" {VALIDATION} images; {args.epochs} epochs a group, batch {args.batch}, Adam, rate {args.rate},"
        f' seed {args.seed}"',
        f"classes = {json.dumps(CLASSES)}",
        f'top1-source = "{source}"',
        "",
        "[input]",
        f"height = {SIDE}",
        f"width = {SIDE}",
        "# pixel / 255, less the mean, by the standard deviation",
        f"mean = {MEAN}",
        f"std = {STD}",
        "",
        "[weights]",
        f'file = "{NAME}.safetensors"',
        f"bytes = {len(weights)}",
        f'sha256 = "{hashlib.sha256(weights).hexdigest()}"',
        "",
        "# The sub-network to run when nobody decides: the smallest whose top-1 is at least the floor",
        "# (--top1-floor, else this), in hundredths of a point; the largest if none is.",
        "[failsafe]",
        f"top1-floor = {TOP1_FLOOR}",
        "",
        "# One group's convolutions: zero padding, ReLU, then maximum pooling over pool x pool.",
    ]
    for i, width in enumerate(CHANNELS, 1):
        lines += ["[[convs]]", f'name = "conv{i}"', f"kernel = {KERNEL}", f"channels = {width}", "pool = 2", ""]
    lines.append("# By rising cost; top-1 in hundredths of a point, MACs of one image.")
    for g, score in enumerate(top1, 1):
        lines += [
            "[[subnets]]",
            f'name = "{100 * g // GROUPS}%"',
            f"groups = {g}",
            f"top1 = {score}",
            f"macs = {g * macs}",
            f"params = {g * params}",
            "",
        ]
    (MODELS / f"{NAME}.toml").write_text("\n".join(lines))


def manifest(args):
    rows = json.loads(args.measured.read_text())["subnets"]
    write_manifest([row["top1"] for row in rows], "test split, by `dnn-runner measure`", args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "manifest"])
    parser.add_argument("--dataset", type=pathlib.Path, default=pathlib.Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--measured", type=pathlib.Path, help="what `dnn-runner measure --json` wrote")
    parser.add_argument("--epochs", type=int, default=8, help="per group")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.what == "manifest" and args.measured is None:
        parser.error("manifest needs --measured")
    (train if args.what == "train" else manifest)(args)


if __name__ == "__main__":
    main()

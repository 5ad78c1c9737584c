#!/usr/bin/env python3
"""Trains `models/mlcad-fmnist-large`: the group-convolution network of the MLCAD'19 paper, at a host's size.

Xun, Tran-Thanh, Al-Hashimi, Merrett: "Incremental Training and Group Convolution Pruning for Runtime DNN
Performance Scaling on Heterogeneous Embedded Platforms", arXiv 2105.03600; see mlcad.py for the method and the
small network. Here a group has five convolutions and is trained with batch-norm, which is folded into weights and
biases when the group is frozen; the sha256 of a frozen group is noted before the next one is begun, and the
manifest carries it, so that anyone can check that later trainings left it bit for bit.

    mlcad_large.py train                     weights, and a manifest with the validation accuracy
    dnn-runner measure --json FILE           the accuracy on the test split, by the Rust engine
    mlcad_large.py manifest --measured FILE  the manifest with that accuracy

A training goes on from its checkpoint. Needs numpy and jax[cpu]; the data is Debian's dataset-fashion-mnist.
"""

import argparse
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import fmnist
from fmnist import CLASSES, MODELS, SIDE

NAME = "mlcad-fmnist-large"
GROUPS = 4
# One group: channels of each 3x3 convolution, and whether 2x2 maximum pooling follows; then a linear classifier.
CONVS = [(16, 2), (32, 1), (32, 2), (64, 1), (64, 2)]
VALIDATION = 5_000
TOP1_FLOOR = 9000  # the default accuracy floor, hundredths of a point: decides the failsafe


def features():
    return (SIDE // 8) ** 2 * CONVS[-1][0]


def initial(rng):
    group, depth = {}, 1
    for i, (width, _) in enumerate(CONVS, 1):
        scale = np.sqrt(2 / (9 * depth))
        group[f"conv{i}.weight"] = rng.normal(0, scale, (3, 3, depth, width)).astype(np.float32)
        group[f"conv{i}.gamma"] = np.ones(width, np.float32)
        group[f"conv{i}.beta"] = np.zeros(width, np.float32)
        depth = width
    group["fc.weight"] = rng.normal(0, np.sqrt(1 / features()), (features(), len(CLASSES))).astype(np.float32)
    group["fc.bias"] = np.zeros(len(CLASSES), np.float32)
    return group


def train_logits(group, x):
    """The logits of a group under training, and its batch-norm statistics."""
    stats = []
    for i, (_, pool) in enumerate(CONVS, 1):
        x, s = fmnist.batch_norm(fmnist.conv(x, group[f"conv{i}.weight"]), group[f"conv{i}.gamma"], group[f"conv{i}.beta"])
        stats.append(s)
        x = jax.nn.relu(x)
        x = fmnist.pool(x) if pool == 2 else x
    return x.reshape(x.shape[0], -1) @ group["fc.weight"] + group["fc.bias"], stats


def logits(group, x):
    """The logits of a frozen group."""
    for i, (_, pool) in enumerate(CONVS, 1):
        x = jax.nn.relu(fmnist.conv(x, group[f"conv{i}.weight"]) + group[f"conv{i}.bias"])
        x = fmnist.pool(x) if pool == 2 else x
    return x.reshape(x.shape[0], -1) @ group["fc.weight"] + group["fc.bias"]


@jax.jit
def forward(groups, x):
    return sum((logits(g, x) for g in groups), jnp.zeros((x.shape[0], len(CLASSES))))


@jax.jit
def gradient(group, frozen, x, y, alone):
    """Of the loss of all groups' summed logits and, weighted by `alone`, of this group's own."""

    def loss(group):
        own, _ = train_logits(group, x)
        base = jax.lax.stop_gradient(forward(frozen, x))
        return fmnist.cross_entropy(base + own, y) + alone * fmnist.cross_entropy(own, y)

    return jax.value_and_grad(loss)(group)


statistics = jax.jit(lambda group, x: train_logits(group, x)[1])


def freeze(group, images):
    """Batch-norm folded: statistics of the training images, in batches of 500."""
    batches = [statistics(group, fmnist.normalise(images[i : i + 500])) for i in range(0, 20_000, 500)]
    frozen = {k: v for k, v in group.items() if k.startswith("fc.")}
    for i in range(1, len(CONVS) + 1):
        mean = np.mean([b[i - 1][0] for b in batches], 0)
        var = np.mean([b[i - 1][1] for b in batches], 0)
        scale = group[f"conv{i}.gamma"] / np.sqrt(var + fmnist.EPS)
        frozen[f"conv{i}.weight"] = np.asarray(group[f"conv{i}.weight"] * scale, np.float32)
        frozen[f"conv{i}.bias"] = np.asarray(group[f"conv{i}.beta"] - mean * scale, np.float32)
    return {k: np.asarray(frozen[k]) for k in sorted(frozen)}


def accuracy(groups, images, labels):
    out = [np.asarray(forward(groups, fmnist.normalise(images[i : i + 500]))) for i in range(0, len(images), 500)]
    return float((np.concatenate(out).argmax(1) == labels).mean())


def train(args):
    (images, labels), held = fmnist.load(args.dataset, VALIDATION)
    views = fmnist.Views(images)
    batches = len(images) // args.batch
    steps = args.epochs * batches
    state = {"groups": [], "digests": [], "validation": [], "epoch": 0, "cpu": 0.0, "group": None, "momentum": None}
    if args.checkpoint.exists():
        state = fmnist.resume(args.checkpoint)
    began = time.process_time() - state["cpu"]
    while len(state["groups"]) < GROUPS:
        g = len(state["groups"])
        rng = np.random.default_rng([args.seed, g, state["epoch"]])
        if state["group"] is None:
            state["group"] = initial(rng)
            state["momentum"] = {k: np.zeros_like(v) for k, v in state["group"].items()}
        group, momentum = state["group"], state["momentum"]
        order, total = rng.permutation(len(images)), 0.0
        for b in range(batches):
            pick = order[b * args.batch : (b + 1) * args.batch]
            at = (state["epoch"] * batches + b) / steps
            value, grad = gradient(group, state["groups"], views.take(rng, pick), labels[pick], 0.5 * (1 - at))
            group, momentum = fmnist.sgd(group, momentum, grad, fmnist.rate_at(at, args.rate))
            total += float(value)
        state.update(group=group, momentum=momentum, epoch=state["epoch"] + 1, cpu=time.process_time() - began)
        line = f"group {g} epoch {state['epoch']}: loss {total / batches:.4f}, {state['cpu']:.0f} CPU-s"
        if state["epoch"] == args.epochs:
            frozen = freeze(state["group"], images)
            state["groups"].append(frozen)
            state["digests"].append(fmnist.digest(frozen))
            state["validation"].append(round(1e4 * accuracy(state["groups"], *held)))
            state.update(epoch=0, group=None, momentum=None)
            line += f", validation {state['validation'][-1] / 100:.2f} %"
        print(line, flush=True)
        fmnist.save(args.checkpoint, state)
    tensors = {f"group{g}.{k}": v for g, group in enumerate(state["groups"]) for k, v in group.items()}
    fmnist.write_safetensors(MODELS / f"{NAME}.safetensors", tensors)
    write_manifest(state["validation"], "validation split, by mlcad_large.py", state, args)


def costs():
    """Multiply-accumulates and parameters of one group."""
    macs, params, depth, side = 0, 0, 1, SIDE
    for width, pool in CONVS:
        macs += side * side * 9 * depth * width
        params += 9 * depth * width + width
        depth, side = width, side // pool
    return macs + features() * len(CLASSES), params + features() * len(CLASSES) + len(CLASSES)


def write_manifest(top1, source, state, args):
    weights = (MODELS / f"{NAME}.safetensors").read_bytes()
    macs, params = costs()
    lines = [
        "# Written by train/mlcad_large.py; do not edit by hand.",
        f'name = "{NAME}"',
        'family = "group-convolution"',
        'paper = "Xun et al., Incremental Training and Group Convolution Pruning for Runtime DNN Performance'
        ' Scaling on Heterogeneous Embedded Platforms, MLCAD 2019, arXiv 2105.03600"',
        f'provenance = "trained by train/mlcad_large.py on Fashion-MNIST (MIT licence), training split without its last'
        f" {VALIDATION} images; {args.epochs} epochs a group, batch {args.batch}, SGD, rate {args.rate},"
        f' seed {args.seed}; {state["cpu"] / 60:.0f} CPU-minutes"',
        f"classes = {json.dumps(CLASSES)}",
        f'top1-source = "{source}"',
        "# sha256 of each group's tensors (by name, little-endian), noted when it was frozen: before the next was begun.",
        f"group-sha256 = {json.dumps(state['digests'], indent=1)}",
        "",
        "[input]",
        f"height = {SIDE}",
        f"width = {SIDE}",
        "# pixel / 255, less the mean, by the standard deviation",
        f"mean = {fmnist.MEAN}",
        f"std = {fmnist.STD}",
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
    for i, (width, pool) in enumerate(CONVS, 1):
        lines += ["[[convs]]", f'name = "conv{i}"', "kernel = 3", f"channels = {width}", f"pool = {pool}", ""]
    lines.append("# By rising cost; top-1 in hundredths of a point, MACs of one image.")
    for g, score in enumerate(top1, 1):
        lines += ["[[subnets]]", f'name = "{100 * g // GROUPS}%"', f"groups = {g}", f"top1 = {score}"]
        lines += [f"macs = {g * macs}", f"params = {g * params}", ""]
    (MODELS / f"{NAME}.toml").write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "manifest"])
    parser.add_argument("--dataset", type=pathlib.Path, default=pathlib.Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--measured", type=pathlib.Path, help="what `dnn-runner measure --json` wrote")
    parser.add_argument("--checkpoint", type=pathlib.Path, default=pathlib.Path(f"{NAME}.checkpoint"))
    parser.add_argument("--epochs", type=int, default=9, help="per group")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.what == "train":
        train(args)
    elif args.measured is None:
        parser.error("manifest needs --measured")
    else:
        state = fmnist.resume(args.checkpoint)
        rows = json.loads(args.measured.read_text())["subnets"]
        write_manifest([row["top1"] for row in rows], "test split, by `dnn-runner measure`", state, args)


if __name__ == "__main__":
    main()

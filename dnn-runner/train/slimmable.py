#!/usr/bin/env python3
"""Trains `models/slimmable-fmnist`: one weight set, many widths.

Yu, Huang: "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, arXiv 1903.05134. A
sub-network of width u runs the first channels of every layer (u, 2u or 4u of them); batch-norm is a width's own. The sandwich rule: each
step trains the largest width on the labels, and the smallest and two random widths on the largest's answers
(in-place distillation); their gradients are summed. After the training the batch-norm statistics of every width are
computed from training images.

    slimmable.py train                     weights, and a manifest with the validation accuracy
    dnn-runner measure --json FILE         the accuracy on the test split, by the Rust engine
    slimmable.py manifest --measured FILE  the manifest with that accuracy

A training goes on from its checkpoint. Which widths are published is decided on the validation split: greedily from
the largest down, each at least 0.3 points below the one before. Needs numpy and jax[cpu]; the data is Debian's
package dataset-fashion-mnist.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import fmnist
from fmnist import CLASSES, MODELS, SIDE

NAME = "slimmable-fmnist"
# 3x3 convolutions with batch-norm and ReLU: channels per unit of width, whether the layer's input is added before
# the ReLU, and the 2x2 maximum pooling after it. Then the mean over all pixels and a linear classifier.
LAYERS = [(1, False, 2), (2, False, 1), (2, True, 2), (4, False, 1), (4, True, 1)]
WIDTHS = [2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32]
LARGEST = WIDTHS[-1]
VALIDATION = 10_000
APART = 30  # hundredths of a point between published neighbours
TOP1_FLOOR = 8800  # the default accuracy floor, hundredths of a point: decides the failsafe


def initial(rng):
    p, depth = {}, 1
    for i, (factor, _, _) in enumerate(LAYERS, 1):
        width = factor * LARGEST
        p[f"conv{i}.weight"] = rng.normal(0, np.sqrt(2 / (9 * depth)), (3, 3, depth, width)).astype(np.float32)
        depth = width
        for u in WIDTHS:
            p[f"w{u}.conv{i}.gamma"] = np.ones(factor * u, np.float32)
            p[f"w{u}.conv{i}.beta"] = np.zeros(factor * u, np.float32)
    p["fc.weight"] = rng.normal(0, np.sqrt(1 / depth), (depth, len(CLASSES))).astype(np.float32)
    p["fc.bias"] = np.zeros(len(CLASSES), np.float32)
    return p


def forward(p, u, x, stats=None):
    """Logits of width `u`, and the batch-norm statistics: `stats`, or the batch's own where there are none."""
    found = []
    for i, (factor, add, pool) in enumerate(LAYERS, 1):
        gamma, beta = p[f"w{u}.conv{i}.gamma"], p[f"w{u}.conv{i}.beta"]
        y = fmnist.conv(x, p[f"conv{i}.weight"][:, :, : x.shape[-1], : factor * u])
        if stats is None:
            y, s = fmnist.batch_norm(y, gamma, beta)
        else:
            s = stats[i - 1]
            scale = gamma / jnp.sqrt(s[1] + fmnist.EPS)
            y = y * scale + (beta - s[0] * scale)
        found.append(s)
        x = jax.nn.relu(y + x if add else y)
        x = fmnist.pool(x) if pool == 2 else x
    return x.mean((1, 2)) @ p["fc.weight"][: x.shape[-1]] + p["fc.bias"], found


@jax.jit
def teach(p, x, y):
    """Of the largest width on the labels: loss, its logits, gradient."""

    def loss(p):
        out, _ = forward(p, LARGEST, x)
        return fmnist.cross_entropy(out, y), out

    (value, out), grad = jax.value_and_grad(loss, has_aux=True)(p)
    return value, jax.nn.softmax(out), grad


@functools.partial(jax.jit, static_argnums=1)
def learn(p, u, x, soft, so_far):
    """Of width `u` on the largest's answers: loss, `so_far` plus the gradient."""

    def loss(p):
        return -(soft * jax.nn.log_softmax(forward(p, u, x)[0])).sum(1).mean()

    value, grad = jax.value_and_grad(loss)(p)
    return value, jax.tree.map(jnp.add, so_far, grad)


statistics = jax.jit(lambda p, u, x: forward(p, u, x)[1], static_argnums=1)
infer = jax.jit(lambda p, u, x, stats: forward(p, u, x, stats)[0], static_argnums=1)


def calibrate(p, u, images):
    """Mean and variance before every batch-norm of width `u`, over training images in batches of 500."""
    batches = [statistics(p, u, fmnist.normalise(images[i : i + 500])) for i in range(0, 15_000, 500)]
    return [tuple(np.mean([b[i][j] for b in batches], 0) for j in (0, 1)) for i in range(len(LAYERS))]


def accuracy(p, u, stats, images, labels):
    """In hundredths of a point."""
    out = [np.asarray(infer(p, u, fmnist.normalise(images[i : i + 500]), stats)) for i in range(0, len(images), 500)]
    return round(1e4 * float((np.concatenate(out).argmax(1) == labels).mean()))


def train(args):
    (images, labels), held = fmnist.load(args.dataset, VALIDATION)
    views = fmnist.Views(images)
    batches = len(images) // args.batch
    cycle = args.epochs * batches
    steps = args.cycles * cycle
    if args.checkpoint.exists():
        state = fmnist.resume(args.checkpoint)
    else:
        p = initial(np.random.default_rng(args.seed))
        state = {"p": p, "m": {k: np.zeros_like(v) for k, v in p.items()}, "step": 0, "cpu": 0.0}
    began, total = time.process_time() - state["cpu"], []
    while state["step"] < steps:
        epoch, b = divmod(state["step"], batches)
        rng = np.random.default_rng([args.seed, state["step"]])
        order = np.random.default_rng([args.seed, epoch]).permutation(len(images))
        pick = order[b * args.batch : (b + 1) * args.batch]
        x = views.take(rng, pick)
        value, soft, grad = teach(state["p"], x, labels[pick])
        for u in [WIDTHS[0], *rng.choice(WIDTHS[1:-1], 2, replace=False)]:
            _, grad = learn(state["p"], int(u), x, soft, grad)
        state["p"], state["m"] = fmnist.sgd(state["p"], state["m"], grad, fmnist.rate_at(state["step"] % cycle / cycle, args.rate))
        total.append(float(value))
        state["step"] += 1
        if state["step"] % 50 == 0 or state["step"] == steps:
            state["cpu"] = time.process_time() - began
            fmnist.save(args.checkpoint, state)
        if state["step"] % batches == 0:
            scores = [accuracy(state["p"], u, calibrate(state["p"], u, images), *held) for u in (WIDTHS[0], 8, LARGEST)]
            print(f"epoch {epoch + 1}: loss {np.mean(total):.4f}, validation {scores}, {state['cpu']:.0f} CPU-s", flush=True)
            total = []
    p = state["p"]
    tensors = {k: np.asarray(v) for k, v in p.items() if k[0] != "w"}
    scores = {}
    for u in WIDTHS:
        stats = calibrate(p, u, images)
        scores[u] = accuracy(p, u, stats, *held)
        print(f"width {u}: validation {scores[u] / 100:.2f} %", flush=True)
        for i, (mean, var) in enumerate(stats, 1):
            # Batch-norm as the engine's epilogue has it: scale and bias per channel.
            scale = p[f"w{u}.conv{i}.gamma"] / np.sqrt(var + fmnist.EPS)
            tensors[f"w{u}.conv{i}.scale"] = np.asarray(scale, np.float32)
            tensors[f"w{u}.conv{i}.bias"] = np.asarray(p[f"w{u}.conv{i}.beta"] - mean * scale, np.float32)
    published, last = [], None
    for u in reversed(WIDTHS):
        if last is None or scores[u] <= last - APART:
            published, last = [u, *published], scores[u]
    kept = {k: v for k, v in tensors.items() if k[0] != "w" or int(k[1:].split(".")[0]) in published}
    state.update(published=published, validation=[scores[u] for u in published], all=scores)
    fmnist.save(args.checkpoint, state)
    fmnist.write_safetensors(MODELS / f"{NAME}.safetensors", kept)
    write_manifest(state["validation"], "validation split, by slimmable.py", state, args)


def costs(u):
    """Multiply-accumulates and parameters of width `u`: weights, batch-norm scale and bias, classifier."""
    macs, params, depth, side = 0, 0, 1, SIDE
    for factor, _, pool in LAYERS:
        width = factor * u
        macs += side * side * 9 * depth * width
        params += 9 * depth * width + 2 * width
        depth, side = width, side // pool
    return macs + depth * len(CLASSES), params + depth * len(CLASSES) + len(CLASSES)


def write_manifest(top1, source, state, args):
    weights = (MODELS / f"{NAME}.safetensors").read_bytes()
    lines = [
        "# Written by train/slimmable.py; do not edit by hand.",
        f'name = "{NAME}"',
        'family = "slimmable"',
        'paper = "Yu, Huang, Universally Slimmable Networks and Improved Training Techniques, ICCV 2019, arXiv 1903.05134"',
        f'provenance = "trained by train/slimmable.py on Fashion-MNIST (MIT licence), training split without its last'
        f" {VALIDATION} images; {args.cycles} cycles of {args.epochs} epochs, batch {args.batch}, SGD, rate {args.rate}, seed {args.seed};"
        f' {state["cpu"] / 60:.0f} CPU-minutes"',
        f"classes = {json.dumps(CLASSES)}",
        f'top1-source = "{source}"',
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
        "# Convolutions with zero padding and batch-norm; `add`: the layer's input is added before the ReLU; then maximum",
        "# pooling over pool x pool. A sub-network of width w has channels-per-width * w channels, the first of them.",
    ]
    for i, (factor, add, pool) in enumerate(LAYERS, 1):
        lines += ["[[convs]]", f'name = "conv{i}"', "kernel = 3", f"channels-per-width = {factor}"]
        lines += [f"pool = {pool}"] + (["add = true"] if add else []) + [""]
    lines.append("# By rising cost; top-1 in hundredths of a point (validation: on the split that chose the widths), MACs of one image.")
    for u, score, held in zip(state["published"], top1, state["validation"]):
        macs, params = costs(u)
        lines += ["[[subnets]]", f'name = "w{u}"', f"width = {u}", f"top1 = {score}", f"validation = {held}"]
        lines += [f"macs = {macs}", f"params = {params}", ""]
    (MODELS / f"{NAME}.toml").write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "manifest"])
    parser.add_argument("--dataset", type=pathlib.Path, default=pathlib.Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--measured", type=pathlib.Path, help="what `dnn-runner measure --json` wrote")
    parser.add_argument("--checkpoint", type=pathlib.Path, default=pathlib.Path(f"{NAME}.checkpoint"))
    parser.add_argument("--epochs", type=int, default=7, help="per cycle")
    parser.add_argument("--cycles", type=int, default=2, help="of the rate (warm restarts, arXiv 1608.03983)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.06)
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

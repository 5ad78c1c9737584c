#!/usr/bin/env python3
"""Writes dynamic-ofa.toml from dynamic_ofa_subnets.csv: the 13 published sub-networks on random weights.

MACs and parameters are counted here a second time, independently of the Rust code, which refuses a manifest that
disagrees with its own layers.
"""

import csv
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
STAGES = [(32, 2, False), (48, 2, True), (96, 2, False), (136, 1, True), (192, 2, True)]
CLASSES = 1000


def round8(n):
    r = max(8, int(n + 4) // 8 * 8)
    return r + 8 if r < 0.9 * n else r


def costs(r, depths, kernels, expands):
    macs = params = 0

    def conv(side, k, i, o, vectors):
        nonlocal macs, params
        macs += side * side * k * k * i * o
        params += k * k * i * o + vectors * o

    side = (r - 1) // 2 + 1
    conv(side, 3, 3, 24, 2)
    conv(side, 3, 1, 24, 2)
    conv(side, 1, 24, 24, 2)
    inputs = 24
    for s, (outputs, stride, squeeze) in enumerate(STAGES):
        for b in range(depths[s]):
            k, mid = kernels[4 * s + b], round8(inputs * expands[4 * s + b])
            conv(side, 1, inputs, mid, 2)
            side = (side - 1) // stride + 1 if b == 0 else side
            conv(side, k, 1, mid, 2)
            if squeeze:
                conv(1, 1, mid, round8(mid // 4), 1)
                conv(1, 1, round8(mid // 4), mid, 1)
            conv(side, 1, mid, outputs, 2)
            inputs = outputs
    conv(side, 1, inputs, 1152, 2)
    conv(1, 1, 1152, 1536, 0)
    conv(1, 1, 1536, CLASSES, 1)
    return macs, params


def main():
    rows = csv.DictReader(line for line in (HERE / "dynamic_ofa_subnets.csv").open() if line[0] != "#")
    nets = []
    for row in rows:
        depths, kernels, expands = ([int(x) for x in row[key].split()] for key in ("depths", "ks", "e"))
        macs, params = costs(int(row["r"]), depths, kernels, expands)
        nets.append((macs, row["set"], int(row["level"]), row, depths, kernels, expands, params))
    lines = [
        "# Written by ofa_manifest.py from dynamic_ofa_subnets.csv; do not edit by hand.",
        'name = "dynamic-ofa"',
        'family = "ofa-mobilenet-v3-w1.2"',
        'paper = "Lou et al., Dynamic-OFA: Runtime DNN Architecture Switching for Performance Scaling on Heterogeneous'
        ' Embedded Platforms, CVPR workshops 2021, arXiv 2105.03596"',
        'provenance = "random weights: for speed, memory and switching alone; its answers mean nothing"',
        f"classes = {CLASSES}",
        'top1-source = "ImageNet, published by the authors for their trained weights (dynamic_ofa_subnets.csv); not of these weights"',
        "",
        "[input]",
        "height = 224",
        "width = 224",
        "channels = 3",
        "# value / 255, less the mean, by the standard deviation: ImageNet's",
        "mean = [0.485, 0.456, 0.406]",
        "std = [0.229, 0.224, 0.225]",
        "",
        "[weights]",
        "seed = 1",
        "",
        "# The sub-network to run when nobody decides: the smallest whose top-1 is at least the floor",
        "# (--top1-floor, else this), in hundredths of a point; the largest if none is.",
        "[failsafe]",
        "top1-floor = 7600",
        "",
        "# By rising cost; top-1 in hundredths of a point, MACs of one image.",
    ]
    for macs, which, level, row, depths, kernels, expands, params in sorted(nets, key=lambda n: n[:3]):
        lines += [
            "[[subnets]]",
            f'name = "{which}/{level}"',
            f"top1 = {round(100 * float(row['top1_pct']))}",
            f"macs = {macs}",
            f"params = {params}",
            f"resolution = {row['r']}",
            f"depths = {depths}",
            f"kernels = {kernels}",
            f"expands = {expands}",
            "",
        ]
    (HERE / "dynamic-ofa.toml").write_text("\n".join(lines))


main()

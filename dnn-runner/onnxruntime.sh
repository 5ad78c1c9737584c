#!/usr/bin/env bash
# Puts ONNX Runtime's library into target/onnxruntime, for the second engine and for comparisons: the PyPI wheel's.
# Does nothing where it is there, where ORT_DYLIB_PATH says where it lies, or where the system has one. Without it all
# but ONNX networks works.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=1.32.0
to=target/onnxruntime/libonnxruntime.so
if [ -n "${ORT_DYLIB_PATH:-}" ]; then
  echo "onnxruntime: ORT_DYLIB_PATH is $ORT_DYLIB_PATH"
elif [ -e "$to" ]; then
  echo "onnxruntime: $to"
elif ldconfig -p 2> /dev/null | grep -q 'libonnxruntime\.so '; then
  echo "onnxruntime: the system's"
else
  echo "onnxruntime: fetching the PyPI wheel of $version into target/onnxruntime (27 MB, MIT licence)"
  mkdir -p target/onnxruntime
  wheel=$(mktemp -d)
  trap 'rm -rf "$wheel"' EXIT
  if ! "${PYTHON:-/usr/bin/python3}" -m pip download --quiet --no-deps --only-binary :all: -d "$wheel" "onnxruntime==$version"; then
    echo "onnxruntime: not to be had: networks in ONNX and comparisons with ONNX Runtime will not work" >&2
    exit 1
  fi
  python3 - "$wheel" "$to" << 'PYTHON'
import pathlib, sys, zipfile
wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl")))
library = next(n for n in wheel.namelist() if "/capi/libonnxruntime.so." in n)
part = pathlib.Path(sys.argv[2] + ".part")
part.write_bytes(wheel.read(library))
part.replace(sys.argv[2])
PYTHON
  echo "onnxruntime: $to"
fi

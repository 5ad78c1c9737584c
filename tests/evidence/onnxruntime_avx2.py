#!/usr/bin/env python3
"""A copy of ONNX Runtime's library that does not see AVX-512, for comparisons on AVX2: IN OUT.

The library has no switch for its vector width. Its start-up (MLAS, platform.cpp) asks CPUID once whether AVX-512F is
there and jumps over everything of AVX-512 where it is not; in the copy that jump is always taken, one byte. Nothing
else of the library asks for it in 32-bit float arithmetic. The byte is found by the code around it, of release 1.32.0
from PyPI for x86-64; in any other library it is not found, and the copy is not made.
"""

import pathlib
import sys

# test $0x10000, %r10d; je +14; mov %r8, %rax; not %rax; test $0xe0, %al
LOOK = bytes.fromhex("41f7c200000100 740e 4c89c0 48f7d0 a8e0")
JUMP = LOOK.replace(b"\x74\x0e", b"\xeb\x0e")  # je becomes jmp

library = pathlib.Path(sys.argv[1]).read_bytes()
if library.count(LOOK) != 1:
    sys.exit(f"{sys.argv[1]}: the look at AVX-512 is there {library.count(LOOK)} times, not once; another release?")
part = pathlib.Path(sys.argv[2] + ".part")
part.write_bytes(library.replace(LOOK, JUMP))
part.replace(sys.argv[2])

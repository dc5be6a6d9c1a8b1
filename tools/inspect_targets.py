"""Look at the machine code of the product kernels for CPUs that are not at hand.

    python -m tools.inspect_targets

Each target is compiled in a process of its own that pretends to have that target's features (Numba
obeys NUMBA_CPU_NAME and NUMBA_CPU_FEATURES); the target's back end then compiles the LLVM code. The
checks are on the innermost loops of the large tiles, those of Strassen's products among them: they
must multiply and add in vectors and keep their accumulators in registers (`CROWDED` names what
cannot), and nothing may call a mathematical library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

import llvmlite.binding as llvm

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
X86_V3 = "+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt"
X86_V4 = X86_V3 + ",+avx512f,+avx512bw,+avx512dq,+avx512vl"
#: Target -> (triple, CPU, features), as LLVM names them.
TARGETS = {
    "avx2": (X86, "haswell", X86_V3),
    "avx2-vnni": (X86, "alderlake", X86_V3 + ",+avxvnni"),
    "avx512": (X86, "skylake-avx512", X86_V4),
    "avx512-vnni": (X86, "cascadelake", X86_V4 + ",+avx512vnni"),
    "zen4": (X86, "znver3", X86_V4 + ",+avx512vnni,+sse4a"),
    "zen5": (X86, "znver3", X86_V4 + ",+avx512vnni,+sse4a,+avxvnni"),
    "amx": (X86, "sapphirerapids", X86_V4 + ",+avx512vnni,+amx-tile,+amx-int8"),
    "neon": (ARM, "cortex-a72", "+neon"),
    "neon-dot": (ARM, "neoverse-n1", "+neon,+dotprod"),
}
_FLOATS = {
    "avx2": r"\bvfmadd\w+ps\b.*%ymm",
    "avx2-vnni": r"\bvfmadd\w+ps\b.*%ymm",
    "avx512": r"\bvfmadd\w+ps\b.*%zmm",
    "avx512-vnni": r"\bvfmadd\w+ps\b.*%zmm",
    "zen4": r"\bvfmadd\w+ps\b.*%zmm",
    "zen5": r"\bvfmadd\w+ps\b.*%zmm",
    "amx": r"\bvfmadd\w+ps\b.*%zmm",
    "neon": r"\bfmla\b.*\.4s",
    "neon-dot": r"\bfmla\b.*\.4s",
}
_BYTES = {
    "avx2": r"\bvpmaddubsw\b.*%ymm",
    "avx2-vnni": r"\bvpdpbusd\b.*%ymm",
    "avx512": r"\bvpmaddubsw\b.*%zmm",
    "avx512-vnni": r"\bvpdpbusd\b.*%zmm",
    "zen4": r"\bvpdpbusd\b.*%zmm",
    "zen5": r"\bvpdpbusd\b.*%zmm",
    "amx": r"\btdpbusd\b",
    "neon": r"\bsadalp\b.*\.4s",
    "neon-dot": r"\bsdot\b.*\.4s",
}
#: Instructions that multiply and add in the innermost loop, by product and target.
WORK = {
    "float32": _FLOATS,
    "float16": _FLOATS,
    "strassen": _FLOATS,
    "strassen f16": _FLOATS,
    "int8": _BYTES,
}
#: Without an instruction for byte products, intermediate results take registers, and some spill:
#: most in the loop of one row by four panels, which is bound by memory. And one vector of halves
#: that Strassen's first tile widens on its way, as LLVM orders it for two of Intel's CPUs.
CROWDED = {("neon", "int8"), *(("avx512" + vnni, "strassen f16") for vnni in ("", "-vnni"))}
#: Addresses that the loop keeps on the stack: none, except with LLVM before 20, and where it takes
#: rows along, which have addresses of their own (`npfsn.beside`), two more where it also prefetches
#: its own next weights (`cpu.SHARE`), or where it stores sums of weights or what it widens.
ADDRESSES, ADDRESSES_ALONG, ADDRESSES_SUMS = 0 if llvm.llvm_version_info[0] >= 20 else 4, 4, 8
STACK = re.compile(r"\((?:%rsp|%rbp)\)|\[sp")
VECTOR = re.compile(r"%[xyz]mm\d|\b[qv]\d+\b")
LIBRARY = re.compile(
    r"\b(?:callq?|bl)\s+(?:\*?[%\w]*)?"
    r"(fmaf|fma|rintf|tanhf|expf|logf|__mulsf3|__extendhfsf2|__gnu_h2f_ieee)\b"
)


def assembly(target: str) -> dict[str, str]:
    """Compile the product kernels for a target in this process, which must pretend to be it."""
    import numpy as np
    from numba import int64, typeof

    from npfsn.kernels import amx, int8, products
    from npfsn.kernels.cpu import HAS_F16, STRASSEN
    from npfsn.packing import pack_i8

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, cpu, features = TARGETS[target]
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu, features, opt=3)

    out, bias = np.zeros((40, 128), np.float32), np.zeros(128, np.float32)
    packed = pack_i8(np.zeros((128, 64)))
    scratch = np.zeros((40, 64), np.uint8), np.zeros(40, np.float32)
    assert HAS_F16, "the target has an instruction that widens halves"
    whole = (int64,) * 10
    bytes_ = tuple(typeof(arg) for arg in (40, *packed, *scratch, bias, 0, 3, out, 0))
    kernels = [
        ("float32", products.product_f32_weights, whole),
        ("float16", products.product_f16, whole),
        ("int8", amx.product_amx if target == "amx" else int8.product_i8, bytes_),
    ]
    if STRASSEN:
        kernels.append(("strassen", products.product_summed, whole))
        kernels.append(("strassen f16", products.product_summed_f16, whole))
    code = {}
    for name, kernel, args in kernels:
        text = llvm_code(kernel, args)
        text = re.sub(r'target triple = ".*"', f'target triple = "{triple}"', text)
        layout = f'target datalayout = "{machine.target_data}"'
        text = re.sub(r'target datalayout = ".*"', layout, text)
        text = re.sub(r'"(?:target-cpu|target-features)"="[^"]*"', "", text)
        code[name] = machine.emit_assembly(llvm.parse_assembly(text))
    return code


def llvm_code(kernel: Any, args: tuple[Any, ...]) -> str:
    """Return a kernel's optimised LLVM code without compiling it for this machine.

    It may use instructions that this machine's back end does not know.
    """
    from numba.core.compiler import Flags, compile_extra
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    flags = Flags()
    cpu_target.options.parse_as_flags(flags, kernel.targetoptions)
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    contexts = cpu_target.typing_context, cpu_target.target_context
    library = compile_extra(*contexts, kernel.py_func, args, None, flags, {}).library
    library._finalize_specific = lambda: None  # would compile it with this machine's back end
    with global_compiler_lock:
        library.finalize()
    # The kernel alone: the reference counting code next to it is for this machine.
    parts = re.split(
        r"(?m)^(define .*?^\})", library.get_llvm_str(), flags=re.DOTALL | re.MULTILINE
    )
    name = rf'define [^@]*@"?_ZN5npfsn\w*{kernel.__name__}'
    return "".join(p for p in parts if not p.startswith("define ") or re.match(name, p))


def inspect(text: str, work: str) -> dict[str, int]:
    """Count work and stack accesses in the basic block with most work, and library calls.

    Accesses are the most in any block with at least nine tenths as much work: other large tiles.
    """
    # A block starts at a label or after a jump.
    blocks = re.split(r"\n(?=\.?L?[\w.$]+:)|(?<=\n)(?=\s+(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s)", text)
    counts = [len(re.findall(work, block)) for block in blocks]
    vectors = addresses = 0
    for block, count in zip(blocks, counts, strict=True):
        if 10 * count >= 9 * max(counts):
            stack = [line for line in block.splitlines() if STACK.search(line)]
            on_stack = sum(bool(VECTOR.search(line)) for line in stack)
            vectors, addresses = max(vectors, on_stack), max(addresses, len(stack) - on_stack)
    return {
        "work": max(counts),
        "stack": vectors,
        "addresses": addresses,
        "library": len(LIBRARY.findall(text)),
    }


def measure(target: str) -> dict[str, dict[str, int]]:
    """Compile for a target in a fresh process and inspect the result."""
    triple, cpu, features = TARGETS[target]
    if triple != X86:  # this machine's back end knows none of these CPUs
        cpu, features = "generic", "+64bit," + features
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "NUMBA_CPU_NAME": cpu,
            "NUMBA_CPU_FEATURES": features,
            "NUMBA_CACHE_DIR": cache,
            "NPFSN_QUIET": "1",
        }
        command = [sys.executable, "-m", "tools.inspect_targets", "--emit", target]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
    code = json.loads(result.stdout)
    return {name: inspect(text, WORK[name][target]) for name, text in code.items()}


def is_fine(target: str, name: str, counts: dict[str, int]) -> bool:
    """Whether the innermost loop works in vectors, in registers, and without library calls."""
    features = TARGETS[target][2]
    along = features.startswith(X86_V4) and name != "int8"
    shared = 2 if along and "sse4a" not in features else 0
    addresses = ADDRESSES_ALONG + shared if along else ADDRESSES
    widens = along and name == "float16" and not {"sse4a", "avxvnni"} <= set(features.split(",+"))
    if name.startswith("strassen") or widens:
        addresses = ADDRESSES_SUMS
    in_registers = counts["stack"] == 0 and counts["addresses"] <= addresses
    in_registers = in_registers or (target, name) in CROWDED
    return counts["work"] > 0 and in_registers and counts["library"] == 0


def main() -> int:
    """Print a table; return 1 if a target's code is not as it should be."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.inspect_targets", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--emit", choices=TARGETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.emit:
        print(json.dumps(assembly(args.emit)))
        return 0
    bad = 0
    print(f"{'target':12} {'weights':12} {'vector work':>11} {'on stack: vectors':>18} ", end="")
    print(f"{'addresses':>10} {'library':>8}")
    for target in TARGETS:
        for name, counts in measure(target).items():
            fine = is_fine(target, name, counts)
            bad += not fine
            print(
                f"{target:12} {name:12} {counts['work']:11} {counts['stack']:18} "
                f"{counts['addresses']:10} {counts['library']:8}{'' if fine else '  look at this'}"
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

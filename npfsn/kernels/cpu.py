"""The CPU that kernels are compiled for: which of its features are used, and how.

Kernels agree on all of this with the code that packs weights and fills tables. Nothing here needs
the compiler: a start that finds its kernels on disk does without.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

import llvmlite.binding as llvm
import numpy as np

# Numba leaves AVX off on Intel's first CPUs that had it, where it is slow, and on what some virtual
# machines call themselves, whether or not they have it (numba#9582).
_WITHOUT_AVX = {"corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona"}


def _target() -> tuple[str, str]:
    """Return name and features of the CPU to generate code for, as LLVM writes them.

    NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and NUMBA_ENABLE_AVX mean what they mean to Numba.
    """
    name, features = (os.environ.get(f"NUMBA_CPU_{what}") for what in ("NAME", "FEATURES"))
    if features is None and str(name).lower() == "generic":
        features = ""
    if features is None:
        features = ""
        with contextlib.suppress(RuntimeError):  # LLVM cannot tell: nothing that not all have
            found = llvm.get_host_cpu_features()
            default = "0" if (name or llvm.get_host_cpu_name()) in _WITHOUT_AVX else "1"
            if os.environ.get("NUMBA_ENABLE_AVX", default) == "0":
                found.update({each: False for each in found if each.startswith("avx")})
            features = found.flatten()
    return name or llvm.get_host_cpu_name(), features


def _on(features: str) -> frozenset[str]:
    """Return the features that are on, e.g. "avx2", "fma", "neon"."""
    found = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if llvm.get_process_triple().startswith(("arm64", "aarch64")):
        found.add("neon")  # part of every 64-bit ARM
    return frozenset(found)


#: Of the target, not of the machine (`_target`). They are part of the key of kept kernels.
CPU, FEATURES_OF_CPU = _target()
FEATURES = _on(FEATURES_OF_CPU)

#: Floats in a vector; outputs in a panel of packed weights.
PANEL = 16

# Without the instruction, llvm.fma becomes a call of the C library's software fmaf.
HAS_FMA = "fma" in FEATURES or "neon" in FEATURES

# Weights stay in half precision in memory where an instruction widens a vector of them, exactly;
# without it, llvm would call a function of the C library for each.
HAS_F16 = "f16c" in FEATURES or "avx512f" in FEATURES or "neon" in FEATURES
#: AMD's cores with AVX-512: these alone have sse4a, too. Zen 5 alone of these has AVX-VNNI.
IS_ZEN = {"avx512f", "sse4a"} <= FEATURES
IS_ZEN5 = IS_ZEN and "avxvnni" in FEATURES
#: Whether weights that the second-level cache does not hold come slowly: on Intel's servers, a core
#: gets some one and a half cache lines in the time of a tile's step.
IS_NARROW = "avx512f" in FEATURES and not IS_ZEN
#: Whether the second-level cache has 2 MB, not 1: all of Intel's servers with tile registers.
HAS_LARGE_L2 = "amx-tile" in FEATURES
#: Whether the hardware prefetches the weights of a single row as fast as the caches deliver them.
#: There prefetches get in the way.
READS_AHEAD = IS_ZEN5 or IS_NARROW
#: Whether widening slows tiles down, so that in blocks with WIDENED_ROWS rows, the first tile of
#: rows widens halves for all. Intel's cores widen in the units that multiply: otherwise whole files
#: of Fast FullSubNet took 4 % longer, on Zen 4 3 %. Zen 5 has units to spare. With the 64 rows of
#: a hop alone, a step of Fast FullSubNet would take longer: floats are twice as much to read.
WIDENS, WIDENED_ROWS = "avx512f" in FEATURES and not IS_ZEN5, 128

# The byte products of int8 layers take four inputs at a time. Inputs have seven bits, so that the
# instructions of every machine give the same integers: with the offset they are the same signed and
# unsigned, and the sum of two products with eight-bit weights fits into 16 bits. Without an
# instruction that adds in 32 bits it is fastest to add four products in 16, two steps at a time
# (`npfsn.quantise.levels_with_room`).
HAS_VNNI = "avx512vnni" in FEATURES and "avx512f" in FEATURES
HAS_AVX_VNNI = "avxvnni" in FEATURES
HAS_DOT = "neon" in FEATURES and "dotprod" in FEATURES
#: Whether one instruction multiplies and adds four bytes at a time.
HAS_BYTE_PRODUCT = HAS_VNNI or HAS_AVX_VNNI or HAS_DOT
#: Inputs per step; the largest input; the offset added to all, so that none is negative.
DEPTH, MAX_INPUT, OFFSET = 4, 63, 64
#: Steps that are multiplied together (`Emit.dot`). Packed weights have an even number of them.
TOGETHER = 1 if HAS_BYTE_PRODUCT else 2

#: Smaller samples, features and states become zero: arithmetic on denormals is up to fifty times
#: slower.
SMALLEST = np.float32(1e-30)

# A tile must fit the registers: rows x panels accumulators, the panels' weights, one broadcast.
if "avx512f" in FEATURES:  # 32 registers of 16 floats: a panel is one register
    ROWS, ROWS_SMALL, PANELS, PANELS_ONE_ROW = 8, 4, 3, 4 if READS_AHEAD else 8
elif "avx2" in FEATURES or "neon" in FEATURES:  # 16 registers of 8, 32 of 4
    ROWS, ROWS_SMALL, PANELS, PANELS_ONE_ROW = 6, 4, 1, 4
else:
    ROWS, ROWS_SMALL, PANELS, PANELS_ONE_ROW = 2, 1, 1, 2
# PREFETCH: whether tiles prefetch the weights that come next while they compute. The first tile of
# rows does so, as many in each step as it multiplies; or, where they come slowly (SHARE), all tiles
# do, a share each. With AVX2 few instructions are to spare. A single row does so only where the
# hardware is too slow to do it.
PREFETCH = 1 if PANELS > 1 else 0
SHARE = 1 if IS_NARROW else 0
ONE_ROW_PREFETCH = 0 if READS_AHEAD else PREFETCH
# Beside their own work, tiles also prefetch what comes later (`tables.PIECE`), and where there are
# registers to spare, multiply a row with some panels: AHEAD_BYTES in a step, AHEAD_PANELS at most.
AHEAD_BYTES = (64 if SHARE else 128) if PREFETCH else 32 if "avx2" in FEATURES else 0
AHEAD_PANELS = 2
CACHE_LINE = 64  # bytes that are prefetched together
# Parts in which one row widens a panel of halves: Zen 4 is faster with two of 8.
PARTS = 2 if IS_ZEN and not IS_ZEN5 else 1
# Bytes of a panel that meet all rows before the next ones are read: they stay in the first-level
# cache, even in half of it where threads share a core. Tiles of several panels need fewer bytes for
# the same work, which the second level delivers in time.
PART = 12288 if PANELS == 1 else 1 << 30
# Steps along K per iteration of a full tile's loop. With AVX2 the loop adds a third to the
# instructions of a step, which costs time where another thread shares the core's decoders.
UNROLL = 2 if "avx2" in FEATURES and PANELS == 1 else 1

# Strassen's products: with few rows, their tiles would be smaller, and with few inputs, too short.
#: Where they are worth it, and from how many rows and inputs on. With AVX2, whose tiles take six
#: rows, they are not. On Intel's cores, whose plain tiles come closer to the peak, the sums of
#: weights need more rows to pay.
STRASSEN = PREFETCH == 1
STRASSEN_ROWS, STRASSEN_INPUTS = 128 if IS_NARROW else 4 * ROWS, 192
#: Units of a layer that are worked on together, at most about: so many that their gates and hidden
#: states still fit the second-level cache.
GROUP = 136 if HAS_LARGE_L2 else 72

# Rows of an int8 tile. Without an instruction for byte products, intermediate results take
# registers. AVX2 has so few that one row by the panels of a wide stride takes the fewest
# instructions; it needs no unrolling.
if HAS_BYTE_PRODUCT:
    ROWS_I8 = ROWS
elif "avx512f" in FEATURES:
    ROWS_I8 = 4
else:
    ROWS_I8 = 1 if "avx2" in FEATURES else 2
ROWS_SMALL_I8 = min(ROWS_SMALL, ROWS_I8)

#: Rows of inputs in a tile of AMX.
TILE = 16
# The most steps of DEPTH inputs in a tile; with fewer than the least, vectors are faster.
MOST_STEPS, LEAST_STEPS = 16, 8
# The system call that asks for the registers, once per process; threads inherit the answer.
_ARCH_PRCTL, _REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18


def _granted() -> bool:
    """Whether the CPU has the instructions and this process may use their registers.

    They are large (8 KB), so Linux saves them only for processes that have asked.
    """
    if not ({"amx-tile", "amx-int8", "avx512f"} <= FEATURES and sys.platform == "linux"):
        return False
    system_call = ctypes.CDLL(None).syscall
    system_call.restype = ctypes.c_long
    arguments = (ctypes.c_long(n) for n in (_ARCH_PRCTL, _REQ_XCOMP_PERM, _XTILEDATA))
    return bool(system_call(*arguments) == 0)


#: Whether this process may use the tile registers.
HAS_TILES = _granted()


def panels_beside(itemsize: int) -> int:
    """Return how many panels of weights of that size a tile multiplies with one more row."""
    return min(AHEAD_BYTES // (PANEL * itemsize), AHEAD_PANELS)


def fits(n_deep: int) -> bool:
    """Whether n_deep steps divide into tiles of one size that is large enough to pay."""
    return any(n_deep % steps == 0 for steps in range(LEAST_STEPS, MOST_STEPS + 1))


#: Rows of an int8 product that are computed at once.
BLOCK_I8 = TILE if HAS_TILES else ROWS_I8

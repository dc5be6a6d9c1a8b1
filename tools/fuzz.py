"""Feed damaged files to every reader and see that each is refused, or read correctly.

    python -m tools.fuzz                          # 2,000 cases per reader
    python -m tools.fuzz --cases 100000 --jobs 8  # a night's worth
    python -m tools.fuzz --reader audio --seed 7 --only 1234   # one case again

Case n of a reader is an intact file with some damage. Both follow from the seed and n, except for
what libsndfile writes differently each time (serial numbers in Ogg files, the time in float WAV
files). A case passes if the reader returns a valid result or raises an `NpfsnError` of one line,
and meanwhile

* takes less than `TIME_LIMIT` seconds,
* stays within a fixed address space,
* runs no program, opens no connection, looks up no name for a pickle, and writes only where it was
  told to,
* leaves no file open and no temporary file behind.

Cases run in forked workers with a watchdog, so a crash or a hang is recorded like any other fault.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import io
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import drawn_models  # noqa: E402
import torch_files as tf  # noqa: E402

import npfsn  # noqa: E402
from npfsn.audio import enhance_file  # noqa: E402
from npfsn.checkpoint import read_checkpoint  # noqa: E402
from npfsn.errors import NpfsnError  # noqa: E402
from npfsn.models import ARCHITECTURES  # noqa: E402
from npfsn.recipe import read_recipe  # noqa: E402
from npfsn.terminal import number  # noqa: E402
from npfsn.warmup import warm_up  # noqa: E402
from npfsn.weights import Model, load_model, save_model  # noqa: E402

TIME_LIMIT = 5.0
#: Address space on top of what a worker has at its start. The files are a few kB: a reader that
#: trusted a damaged size would exceed this by far.
ROOM = 192 << 20
BATCH = 250  # cases per worker

#: Audit events that no reader may cause.
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
    "subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class", "ctypes.dlopen",
    "webbrowser.open", "os.chmod", "os.kill", "shutil.rmtree",
)  # fmt: skip

Outcome = str


class Violation(Exception):
    """A reader did something forbidden."""


class Watch:
    """An audit hook that can be switched on for the length of a case."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event}{args!r:.200}")
        elif event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[2], int):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not os.fsdecode(args[0]).startswith(self.folder):
                self.seen.append(f"writes {args[0]!r}")


# --- whole files ----------------------------------------------------------------------------------


def checkpoints() -> dict[str, bytes]:
    """Return checkpoints of both formats: plain ones and whole training states."""
    rng = np.random.default_rng(5)
    state = {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "a.bias": rng.standard_normal(3).astype(np.float16),
        "n": np.array(7, np.int64),
    }
    tensors = tf.tensors(state)
    moments = {0: {"step": tf.tensor(np.float32(3)), "exp_avg": tf.strided(np.eye(3, dtype="f4"))}}
    training = {
        "epoch": 58,
        "best_score": tf.NumpyScalar(0.91),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        "model": tf.Ordered(tensors | {"c": tf.bfloat16(np.ones((2, 2), np.float32))}),
    }
    return {
        f"{kind}-{what}": write(value)
        for kind, write in (("zip", tf.zip_bytes), ("legacy", tf.legacy_bytes))
        for what, value in (("plain", tensors), ("training", training))
    }


def models() -> dict[str, bytes]:
    """Return model files of every architecture, stored and compressed, and of smaller types."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ARCHITECTURES:
            path = Path(folder, f"{name}.npz")
            save_model(drawn_models.small_model(name), path)
            files[name] = path.read_bytes()
            with np.load(path, allow_pickle=False) as archive:
                np.savez_compressed(path, **archive)
            files[f"{name}-compressed"] = path.read_bytes()
        for precision, dtype in (("float16", np.float16), ("int8", np.float32)):
            path = Path(folder, f"{precision}.npz")
            model = drawn_models.small_model("fullsubnet")
            tensors = {name: value.astype(dtype) for name, value in model.tensors.items()}
            save_model(
                Model(model.architecture, model.config, tensors, {"precision": precision}), path
            )
            files[precision] = path.read_bytes()
    return files


def sounds() -> dict[str, bytes]:
    """Return short sound files in every container and bit depth."""
    rng = np.random.default_rng(6)
    files = {}
    for container, subtype in (
        ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ULAW"),
        ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"),
        ("W64", "FLOAT"), ("RF64", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("NIST", "PCM_16"),
    ):  # fmt: skip
        channels = 1 + len(files) % 2
        rate = (16000, 48000, 8000)[len(files) % 3]
        if not sf.check_format(container, subtype):
            continue
        buffer = io.BytesIO()
        sf.write(buffer, rng.normal(0, 0.1, (900, channels)), rate, subtype, None, container)
        files[f"{container}-{subtype}"] = buffer.getvalue()
    return files


def recipes() -> dict[str, bytes]:
    """Return training recipes."""
    lines = (
        "[meta]\nseed = 0\nsave_dir = '~/x'\n[acoustics]\nn_fft = 512\nwin_length = 512\n"
        'hop_length = 256\nsr = 16000\n[model]\npath = "fullsubnet.model.Model"\n[model.args]\n'
        'num_freqs = 257\nlook_ahead = 2\nsequence_model = "LSTM"\nfb_num_neighbors = 0\n'
        'sb_num_neighbors = 15\nfb_output_activate_function = "ReLU"\n'
        "sb_output_activate_function = false\nfb_model_hidden_size = 512\n"
        'sb_model_hidden_size = 384\nweight_init = false\nnorm_type = "offline_laplace_norm"\n'
        "freq_cutoffs = [20, 80] # cut\nt = 1e-3\n"
    )
    return {"recipe": lines.encode()}


def states() -> dict[str, bytes]:
    """Return saved states of streams."""
    files = {}
    for name in ("fast_fullsubnet", "fullband"):
        enhancer = npfsn.Enhancer(drawn_models.small_model(name))
        enhancer.process(drawn_models.noise(3000))
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, **enhancer.get_state())
            files[f"{name}-{save.__name__}"] = buffer.getvalue()
    return files


# --- damage ---------------------------------------------------------------------------------------

INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, -1)


def damage(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Return `data` with one to eight changes; now and then none."""
    out = bytearray(data)
    # Most of what can be misread is at the start and at the end.
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        if not out:
            break
        place = rng.randrange(len(out))
        end = rng.random()
        if end < 0.3:
            place = rng.randrange(min(len(out), 200))
        elif end < 0.5:
            place = len(out) - 1 - rng.randrange(min(len(out), 200))
        kind = rng.randrange(11)
        length = rng.choice((1, 2, 4, 8, 16, rng.randint(1, 2000)))
        if kind == 0:
            out[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            letter = rng.randrange(32, 127)
            out[place] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256), letter))
        elif kind in (2, 3):
            width, order = rng.choice((2, 4, 4, 8)), rng.choice("<>")
            value = rng.choice(INTEGERS) % (1 << 8 * width)
            piece = struct.pack(order + {2: "H", 4: "L", 8: "Q"}[width], value)
            out[place : place + width] = piece
        elif kind == 4:
            del out[place:]
        elif kind == 5:
            del out[place : place + length]
        elif kind == 6:
            start = rng.randrange(len(out))
            out[place:place] = out[start : start + length]
        elif kind == 7:
            out[place : place + length] = rng.randbytes(length)
        elif kind == 8:
            out[place:place] = rng.choice((b"\0", b"\xff", b" ", b"(", b"[", b"9")) * length
        elif kind == 9:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            out[place : place + length] = other[start : start + length]
        else:
            digits = [i for i, byte in enumerate(out) if 48 <= byte <= 57]
            if digits:
                out[rng.choice(digits)] = rng.randrange(48, 58)
    return bytes(out)


# --- readers --------------------------------------------------------------------------------------


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.dtype.hasobject:
            raise Violation(f"{name} is {array.dtype}")
        array.tobytes()  # touches every element


def run_checkpoint(path: Path) -> Outcome:
    """Read a checkpoint."""
    _check_arrays(dict(read_checkpoint(path).tensors))
    return "read"


def run_model(path: Path) -> Outcome:
    """Load a model and enhance with it."""
    model = load_model(path)
    needed = model.config.tensor_shapes()
    found = {name: tensor.shape for name, tensor in model.tensors.items()}
    if found != {name: tuple(shape) for name, shape in needed.items()}:
        raise Violation("tensors are not those of the configuration")
    if not all(np.all(np.isfinite(tensor)) for tensor in model.tensors.values()):
        raise Violation("tensors are not finite")
    if model.config.n_fft > 4096:
        return "read"
    x = drawn_models.noise(4 * model.config.n_fft)
    norm = None if model.config.streams else "cumulative_laplace_norm"
    with np.errstate(all="ignore"):
        y = npfsn.Enhancer(model, norm=norm).process(x)
    if not np.all(np.isfinite(y)):
        raise Violation("output is not finite")
    return "read"


def run_audio(path: Path) -> Outcome:
    """Enhance a sound file; the output must be complete or absent."""
    target = path.with_name("out" + path.suffix)
    try:
        report = enhance_file(path, target, drawn_models.small_model("fullband"))
    except NpfsnError:
        if target.exists():
            raise Violation("an error, and an output") from None
        raise
    with sf.SoundFile(target) as file:
        filled = 4096 if "ADPCM" in file.subtype else 0  # the last block
        if not 0 <= file.frames - report.samples <= filled or len(file.read()) != file.frames:
            raise Violation(f"the output has {file.frames} samples, not {report.samples}")
    target.unlink()
    return "read"


def run_recipe(path: Path) -> Outcome:
    """Read a training recipe."""
    json.dumps(read_recipe(path).args, default=str)
    return "read"


def run_state(path: Path) -> Outcome:
    """Restore a stream's state from a file; the stream must accept it, or stay as it was."""
    enhancer = npfsn.Enhancer(drawn_models.small_model("fast_fullsubnet"))
    enhancer.process(drawn_models.noise(1000))
    before = enhancer.get_state()
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            enhancer.set_state(file)
    except Exception as error:
        after = enhancer.get_state()
        if any(before[name].tobytes() != after[name].tobytes() for name in before):
            raise Violation("a refused state changed the stream") from None
        if isinstance(error, NpfsnError):
            raise
        return "refused by numpy"  # it never became a mapping
    if enhancer.get_state()["ended"][0] == 0:
        if not np.all(np.isfinite(enhancer.process(drawn_models.noise(5000)))):
            raise Violation("output is not finite")
    return "read"


READERS: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[Path], Outcome]]] = {
    "checkpoint": (checkpoints, run_checkpoint),
    "model": (models, run_model),
    "audio": (sounds, run_audio),
    "recipe": (recipes, run_recipe),
    "state": (states, run_state),
}
SUFFIXES = {"checkpoint": ".tar", "model": ".npz", "recipe": ".toml", "state": ".npz"}


# --- cases ----------------------------------------------------------------------------------------


def make_case(reader: str, seed: int, case: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the name of the intact file and its damaged content."""
    rng = random.Random(f"{seed} {reader} {case}")
    name = rng.choice(sorted(files))
    data = damage(rng, files[name], list(files.values()))
    if rng.random() < 0.5:
        data = tf.fix_crcs(data)  # otherwise archives are refused for their checksums alone
    return name, data


def _suffix(reader: str, name: str) -> str:
    """Return the suffix of a file, which tells a sound file's format; WAVEX is a kind of WAV."""
    return SUFFIXES.get(reader, "." + name.split("-")[0].lower().replace("wavex", "wav"))


def run_case(
    reader: str, seed: int, case: int, files: dict[str, bytes], folder: Path, watch: Watch
) -> Outcome:
    """Run one case in `folder`, which is empty; return the outcome or raise."""
    name, data = make_case(reader, seed, case, files)
    path = folder / f"case{_suffix(reader, name)}"
    path.write_bytes(data)
    watch.seen.clear()
    opened = _open_files()
    started = time.monotonic()
    watch.folder = str(folder)
    try:
        outcome = READERS[reader][1](path)
    except NpfsnError as error:
        message = str(error)
        if "\n" in message or not message.isprintable() or not 10 < len(message) < 2000:
            raise Violation(f"message: {message[:200]!r}") from error
        outcome = "refused"
        if data == files[name] and reader != "state":
            raise Violation(f"refused a whole file: {message}") from error
    finally:
        watch.folder = None
    if watch.seen:
        raise Violation("; ".join(watch.seen))
    if time.monotonic() - started > TIME_LIMIT:
        raise Violation(f"took {time.monotonic() - started:.1f} s")
    left = [p.name for p in folder.iterdir() if p != path]
    path.unlink()
    if left:
        raise Violation(f"left behind: {left}")
    if _open_files() > opened:
        gc.collect()
        if _open_files() > opened:
            raise Violation("left a file open")
    return outcome


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def _be_strict() -> None:
    """Turn warnings into errors, and limit the memory of this process."""
    warnings.simplefilter("error")
    if not os.path.exists("/proc/self/statm"):
        return
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def work(
    reader: str, seed: int, cases: range, files: dict[str, bytes], report: io.TextIOBase
) -> None:
    """Run cases in this process, one line of JSON for the start and the end of each."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    watch = Watch()
    os.chdir(folder)
    _be_strict()
    try:
        for case in cases:
            report.write(json.dumps({"start": case}) + "\n")
            report.flush()
            # Runs in a thread of its own, so it ends the process even if C code hangs.
            faulthandler.dump_traceback_later(2 * TIME_LIMIT, exit=True)
            try:
                line = {"case": case, "outcome": run_case(reader, seed, case, files, folder, watch)}
            except BaseException as error:
                text = "".join(traceback.format_exception(error))
                line = {"case": case, "outcome": "FAULT", "text": text}
                for path in folder.iterdir():
                    path.unlink()
            faulthandler.cancel_dump_traceback_later()
            report.write(json.dumps(line) + "\n")
        report.flush()
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


def fork_worker(
    reader: str, seed: int, cases: range, files: dict[str, bytes]
) -> tuple[int, Path, range]:
    """Start a worker; return its process id, the path of its report, and its cases."""
    handle, name = tempfile.mkstemp(prefix="fuzzed")
    pid = os.fork()
    if pid:
        os.close(handle)
        return pid, Path(name), cases
    try:
        with open(handle, "w") as report:
            work(reader, seed, cases, files, report)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def read_report(path: Path, cases: range, status: int) -> tuple[Counter[str], list[str], range]:
    """Count a worker's outcomes; return them, its faults, and the cases that it did not reach."""
    outcomes: Counter[str] = Counter()
    faults, started, ended = [], None, None
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        started = entry.get("start", started)
        if "case" in entry:
            ended = entry["case"]
            outcomes[entry["outcome"]] += 1
            if "text" in entry:
                faults.append(f"case {ended}:\n{entry['text']}")
    path.unlink()
    if ended == cases[-1]:
        return outcomes, faults, range(0)
    if started is None or started == ended:
        raise RuntimeError(f"a worker ended with status {status} outside of a case")
    outcomes["FAULT"] += 1
    faults.append(f"case {started}: the process ended (status {status}): a crash or a hang")
    return outcomes, faults, range(started + 1, cases.stop)


def whole_files(reader: str) -> dict[str, bytes]:
    """Return the intact files of a reader, each read once so that all is compiled and imported.

    All kernels are, as damage may turn a model into one that needs others.
    """
    warm_up()
    files = READERS[reader][0]()
    for name in files:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"whole{_suffix(reader, name)}")
            path.write_bytes(files[name])
            try:
                READERS[reader][1](path)
            except NpfsnError as error:
                if reader != "state":
                    print(f"{reader}: {name} as it is: {error}", file=sys.stderr)
    return files


def fuzz(reader: str, cases: int, seed: int, jobs: int) -> tuple[Counter[str], list[str]]:
    """Run the cases of one reader in `jobs` processes; return outcomes and faults."""
    files = whole_files(reader)
    todo = [range(at, min(at + BATCH, cases)) for at in range(0, cases, BATCH)]
    running: dict[int, tuple[Path, range]] = {}
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    while todo or running:
        while todo and len(running) < jobs:
            pid, path, batch = fork_worker(reader, seed, todo.pop(), files)
            running[pid] = (path, batch)
        pid, status = os.wait()
        some, bad, rest = read_report(*running.pop(pid), status)
        outcomes += some
        faults += bad
        if rest:
            todo.append(rest)
    return outcomes, faults


def main(argv: list[str] | None = None) -> int:
    """Run as the module's docstring says; return the number of readers with faults."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--reader", choices=READERS, action="append", help="default: all of them")
    count = number(int, 1, 1 << 31, "a whole number from 1 up")
    parser.add_argument("--cases", type=count, default=2000, help="per reader (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="which cases (default: 0)")
    parser.add_argument(
        "--jobs", type=count, default=os.cpu_count() or 1, help="processes (default: one per core)"
    )
    parser.add_argument(
        "--only", type=int, help="run this case, and keep its file in the current folder"
    )
    args = parser.parse_args(argv)
    if args.only is not None:
        if len(args.reader or ()) != 1:
            parser.error("--only needs one --reader")
        (reader,) = args.reader
        name, data = make_case(reader, args.seed, args.only, files := whole_files(reader))
        kept = Path(f"{reader}-{args.seed}-{args.only}")
        kept.write_bytes(data)
        print(f"made of {name}; kept as {kept}")
        _be_strict()
        with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
            print(run_case(reader, args.seed, args.only, files, Path(folder), Watch()))
        return 0
    failed = 0
    for reader in args.reader or READERS:
        started = time.monotonic()
        outcomes, faults = fuzz(reader, args.cases, args.seed, args.jobs)
        shown = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        seconds = time.monotonic() - started
        line = f"{reader}: seed {args.seed}, {args.cases} cases: {shown}; {seconds:.0f} s"
        print(line, flush=True)
        kinds: Counter[str] = Counter()
        for fault in faults:
            kind = fault.strip().splitlines()[-1][:80]
            kinds[kind] += 1
            if kinds[kind] <= 2:
                print(f"{reader}, seed {args.seed}, {fault}", file=sys.stderr)
        failed += bool(faults)
    return failed


if __name__ == "__main__":
    sys.exit(main())

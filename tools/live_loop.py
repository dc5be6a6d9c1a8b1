"""Run `npfsn live` on a real sound system without a sound card, and compare what comes out.

    python -m tools.live_loop examples/noisy.wav

A separate PulseAudio server gets two virtual devices. A file is played to the one that `npfsn live`
listens to, and what it plays to the other is recorded. With `-a 0`, which removes nothing, the
recording must equal the file up to the rounding of 16 bits: a lost or repeated sample shows.
Needs Debian's packages pulseaudio, pulseaudio-utils, libasound2-plugins and
libportaudio2, and `pip install '.[live,test]'`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from npfsn.resample import resample

try:
    from scipy.signal import correlate
except ModuleNotFoundError:
    raise SystemExit("tools.live_loop needs SciPy: pip install '.[live,test]'") from None

RATE = 16_000
RAW = ["--raw", "--format=s16le", "--channels=1", f"--rate={RATE}"]


def server() -> subprocess.Popen[bytes]:
    """Start a server with the devices "microphone" and "headphones"."""
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1"]
    command += ["-L", "module-native-protocol-unix"]
    for name in ("microphone", "headphones"):
        command += ["-L", f"module-null-sink sink_name={name} rate={RATE} channels=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if subprocess.run(["pactl", "info"], capture_output=True).returncode == 0:
            return process
        time.sleep(0.1)
    process.kill()
    raise SystemExit("the PulseAudio server does not answer")


def play(sound: np.ndarray, seconds: float, options: list[str]) -> int:
    """Play `sound` to `npfsn live`; return its exit code."""
    live = [sys.executable, "-m", "npfsn", "live", "-a", "0"]
    live += ["--seconds", f"{seconds:.1f}", *options]
    running = subprocess.Popen(live, env={**os.environ, "PULSE_SOURCE": "microphone.monitor",
                                          "PULSE_SINK": "headphones"})  # fmt: skip
    time.sleep(4.0)  # until it listens
    # The server takes a moment to play steadily.
    led_in = np.concatenate((np.zeros(2 * RATE, np.float32), sound))
    steps = np.round(np.clip(led_in, -1.0, 1.0) * 32767).astype("<i2")
    subprocess.run(["pacat", "-d", "microphone", *RAW], input=steps.tobytes(), check=True)
    return running.wait()


def loop(sound: np.ndarray, options: list[str]) -> np.ndarray:
    """Return what arrives at the headphones while `sound` is played, float32 at `RATE`."""
    seconds = len(sound) / RATE + 8.0
    with tempfile.TemporaryFile() as heard:
        recorder = subprocess.Popen(["parec", "-d", "headphones.monitor", *RAW], stdout=heard)
        try:
            code = play(sound, seconds, options)
        finally:
            recorder.terminate()
            recorder.wait()
        if code:
            raise SystemExit(f"npfsn live ended with exit code {code}")
        heard.seek(0)
        return np.frombuffer(heard.read(), "<i2").astype(np.float32) / 32768.0


def main() -> None:
    """Play, record and compare."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.live_loop",
        description=__doc__.splitlines()[0],
        epilog="Needs " + __doc__.partition("Needs ")[2],
    )
    parser.add_argument("file", type=Path, help="a noisy recording")
    parser.add_argument("options", nargs="*", help="for npfsn live, behind --")
    args = parser.parse_args()
    import soundfile as sf

    if not shutil.which("pulseaudio"):
        parser.exit(1, f"pulseaudio is not installed: {parser.epilog}")
    try:
        signal, rate = sf.read(args.file, dtype="float32", always_2d=True)
    except sf.SoundFileError as error:
        parser.exit(1, f"{error}\n")
    sound = resample(signal[:, 0], rate, RATE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        process = server()
        try:
            heard = loop(sound, args.options)
        finally:
            process.terminate()
            process.wait()
    at = int(np.argmax(correlate(heard, sound, "valid"))) if len(heard) > len(sound) else 0
    part = heard[at : at + len(sound)]
    error = part - sound[: len(part)]
    ratio = 10 * np.log10(np.sum(sound**2) / max(np.sum(error**2), 1e-12))
    print(
        f"{len(part) / RATE:.2f} s of {len(sound) / RATE:.2f} s heard, the file is {ratio:.1f} dB "
        "above the difference"
    )


if __name__ == "__main__":
    main()

"""Judge enhancement on pairs of clean and noisy recordings: WB-PESQ, STOI, SI-SDR.

Pairs lie in two folders, ``clean/NAME`` and ``noisy/NAME``, where NAME ends in
``_NOISE_snrDB.wav``, as ``mix`` and ``python -m tools.train.validation`` write them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile

import npfsn
from npfsn.terminal import StatusLine, number

from .results import picture_file, result_file

SAMPLE_RATE = 16_000
NAME = re.compile(r"(?P<speech>.+)_(?P<noise>[^_]+)_snr(?P<snr>-?\d+)$")
SNRS = (0, 5, 10, 15)
METRICS = ("pesq", "stoi", "si_sdr")
# PESQ takes no less than a quarter of a second. STOI wants 30 of its frames with sound (`measure`).
SHORTEST_SECONDS = 0.5
TITLES = {"pesq": "WB-PESQ", "stoi": "STOI", "si_sdr": "SI-SDR"}
Enhance = Callable[[np.ndarray], np.ndarray]
Each = TypeVar("Each")


@dataclass(frozen=True)
class Pair:
    """One mixture: its files, and what its name tells about it."""

    clean: Path
    noisy: Path
    speech: str
    noise: str
    snr: int


@dataclass(frozen=True)
class Score:
    """Scores of one mixture before and after enhancement."""

    speech: str
    noise: str
    snr: int
    before: dict[str, float]
    after: dict[str, float]
    level_db: float

    def gain(self, metric: str) -> float:
        """Return the gain in a metric from enhancement."""
        return self.after[metric] - self.before[metric]


def watched(all_of_them: Iterable[Each], total: int) -> Iterator[Each]:
    """Yield the items one by one; show progress on a terminal."""
    line = StatusLine(wanted=True)
    for done, one in enumerate(all_of_them):
        if line.due:
            line.draw(f"{done} of {total}")
        yield one
    line.clear()


def si_sdr(estimate: np.ndarray, target: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio, dB."""
    estimate, target = (x - x.mean() for x in (np.float64(estimate), np.float64(target)))
    clean = target * (estimate @ target) / (target @ target)
    return float(10 * np.log10((clean @ clean) / (np.sum((estimate - clean) ** 2) + 1e-20)))


def measure(audio: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Score ``audio`` against ``clean``, both ``[samples]`` at 16 kHz.

    Raises
    ------
    ValueError
        There is too little sound in ``clean`` for STOI.
    """
    from pesq import PesqError, pesq
    from pystoi import stoi

    quality = pesq(SAMPLE_RATE, clean, audio, "wb", on_error=PesqError.RETURN_VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Not enough STFT frames")
        try:
            intelligibility = stoi(clean, audio, SAMPLE_RATE)
        except RuntimeWarning:  # it would count as 1e-5
            raise ValueError("less than half a second of sound: too little to score") from None
    return {
        # An utterance in which PESQ finds no speech gets the worst score.
        "pesq": max(float(quality), 1.0),
        "stoi": float(intelligibility),
        "si_sdr": si_sdr(audio, clean),
    }


def find_pairs(folder: Path) -> list[Pair]:
    """List the pairs of a folder."""
    pairs = []
    for noisy in sorted((folder / "noisy").glob("*.wav")):
        match = NAME.match(noisy.stem)
        if match is None:
            raise ValueError(f"{noisy.name} does not end in _NOISE_snrDB.wav")
        known = match.groupdict()
        clean = folder / "clean" / noisy.name
        pairs.append(Pair(clean, noisy, known["speech"], known["noise"], int(known["snr"])))
    if not pairs:
        raise ValueError(f"no pairs under {folder}")
    return pairs


def _read(path: Path) -> np.ndarray:
    """Read a file that must be at `SAMPLE_RATE`."""
    samples, rate = soundfile.read(path)
    if rate != SAMPLE_RATE:
        raise ValueError(f"{path} is at {rate} Hz, not {SAMPLE_RATE}")
    return samples


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Read clean and noisy, float32 ``[samples]`` each.

    Raises
    ------
    ValueError
        The pair cannot be judged; the message says why.
    """
    if not pair.clean.exists():
        raise ValueError(f"{pair.noisy} has no clean recording at {pair.clean}")
    clean, noisy = (_read(path).astype(np.float32) for path in (pair.clean, pair.noisy))
    if clean.ndim != 1 or clean.shape != noisy.shape:
        raise ValueError(f"{pair.clean} and {pair.noisy} are not mono and equally long")
    if not clean.any():
        raise ValueError(f"{pair.clean} is silent: nothing can be scored against it")
    if not noisy.any():
        raise ValueError(f"{pair.noisy} is silent: nothing can be enhanced")
    for path, samples in ((pair.clean, clean), (pair.noisy, noisy)):
        if not np.isfinite(samples).all():
            raise ValueError(f"{path} contains NaN or infinity")
    if len(clean) < SHORTEST_SECONDS * SAMPLE_RATE:
        raise ValueError(f"{pair.noisy} is shorter than {SHORTEST_SECONDS} s: too short to score")
    return clean, noisy


def mix(audio: Path, out: Path, snrs: tuple[int, ...] = SNRS) -> int:
    """Write every pair of ``speech_*`` and ``noise_*`` files of a folder at every SNR.

    The SNR is that of whole files; noise shorter than the speech is repeated. The mixture is
    turned down, together with the speech, where it would clip.

    Returns
    -------
    int
        Number of pairs written.
    """
    count = 0
    found = {
        kind: [(path, _read(path)) for path in sorted(audio.glob(f"{kind}_*"))]
        for kind in ("speech", "noise")
    }
    for kind, recordings in found.items():
        if not recordings:
            raise ValueError(f"there is no {kind}_* under {audio}")
        for path, samples in recordings:
            if samples.ndim != 1 or not samples.any():
                raise ValueError(f"{path} is silent or not mono")
    noises = {path.stem.removeprefix("noise_").replace("_", "-"): x for path, x in found["noise"]}
    if len(noises) < len(found["noise"]):
        raise ValueError(f"two noise_* under {audio} differ only in _ and -, or in their suffixes")
    for name in ("clean", "noisy"):
        (out / name).mkdir(parents=True, exist_ok=True)

    def file_name(path: Path, label: str, snr: int) -> str:
        return f"{path.stem.removeprefix('speech_')}_{label}_snr{snr}.wav"

    speeches = [path for path, _ in found["speech"]]
    files = {file_name(*which) for which in itertools.product(speeches, noises, snrs)}
    if {path.name for path in (out / "noisy").glob("*.wav")} - files:
        raise ValueError(f"{out} holds other pairs, which would be judged too: name a new folder")
    for index, (path, speech) in enumerate(found["speech"]):
        for label, noise in noises.items():
            # Each sentence is mixed with another part of the noise.
            start = index * SAMPLE_RATE * 2 % len(noise)
            part = np.resize(np.roll(noise, -start), len(speech))
            if not part.any():
                raise ValueError(f"noise {label} is silent in the part for {path.name}")
            for snr in snrs:
                gain = np.sqrt(np.mean(speech**2) / np.mean(part**2)) * 10 ** (-snr / 20)
                noisy = speech + gain * part
                scale = min(1.0, 0.99 / np.abs(noisy).max())
                file = file_name(path, label, snr)
                soundfile.write(out / "clean" / file, scale * speech, SAMPLE_RATE, "FLOAT")
                soundfile.write(out / "noisy" / file, scale * noisy, SAMPLE_RATE, "FLOAT")
                count += 1
    return count


@functools.cache
def load_enhancer(model: str | None) -> Enhance:
    """Load the model to be judged.

    Parameters
    ----------
    model : str or None
        A training checkpoint (``.tar``), run by PyTorch; anything else, or None for the shipped
        weights, is run by the engine.
    """
    if model is not None and model.endswith(".tar"):
        return load_checkpoint(Path(model))
    loaded = npfsn.load_model(model)
    return lambda audio: npfsn.enhance(audio, SAMPLE_RATE, loaded)


def load_checkpoint(path: Path) -> Enhance:
    """Open a training checkpoint; the bottleneck's size is read from its tensors."""
    import torch

    from tools.train.model import (
        FastFullSubNet,
        ModelArgs,
        bottleneck_size,
        enhance,
        read_checkpoint,
    )

    weights = read_checkpoint(path)["model"]
    model = FastFullSubNet(ModelArgs(bottleneck_hidden_size=bottleneck_size(weights, path))).eval()
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(f"{path} is of another network than tools.train makes") from None
    return lambda audio: enhance(model, torch.from_numpy(audio)[None])[0].numpy()


def _measured(pair: Pair, clean: np.ndarray, audio: np.ndarray) -> dict[str, float]:
    """Score as `measure` does; an error names the clean recording."""
    try:
        return measure(audio, clean)
    except ValueError as error:
        raise ValueError(f"{pair.clean} has {error}") from None


def _judge(pair: Pair, model: str | None) -> Score:
    clean, noisy = read_pair(pair)
    out = load_enhancer(model)(noisy)
    # Only during speech: this measures the level of the speech, not how much noise was removed.
    loud = np.abs(clean) > 0.1 * np.abs(clean).max()
    level = 10 * np.log10(np.mean(out[loud] ** 2) / np.mean(clean[loud] ** 2))
    before, after = (_measured(pair, clean, audio) for audio in (noisy, out))
    return Score(pair.speech, pair.noise, pair.snr, before, after, float(level))


def judge(pairs: list[Pair], model: str | None, workers: int = 1) -> list[Score]:
    """Enhance and score pairs, in several processes if there are several workers."""
    load_enhancer(model)
    for pair in pairs:
        read_pair(pair)  # what cannot be judged is named before hours of work
    if workers == 1:
        return [_judge(pair, model) for pair in watched(pairs, len(pairs))]
    # A process with PyTorch in it cannot be forked safely.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(watched(pool.map(_judge, pairs, itertools.repeat(model)), len(pairs)))


def table(scores: list[Score]) -> str:
    """Tabulate mean scores and gains over all pairs, by SNR, by noise and of the worst talkers."""
    groups: dict[str, list[Score]] = {"all": scores}
    for label, key, unit in (("SNR", "snr", " dB"), ("noise", "noise", "")):
        for name in sorted({getattr(score, key) for score in scores}):
            groups[f"{label} {name}{unit}"] = [s for s in scores if getattr(s, key) == name]
    lines = [
        "| | n | " + " | ".join(f"{TITLES[m]} | gain" for m in METRICS) + " |",
        "|---" * 8 + "|",
    ]
    for name, rows in groups.items():
        cells = []
        for metric, form in zip(METRICS, ("{:.2f}", "{:.3f}", "{:.1f}"), strict=True):
            after = np.mean([row.after[metric] for row in rows])
            gain = np.mean([row.gain(metric) for row in rows])
            cells += [form.format(after), ("{:+" + form[2:]).format(gain)]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    level = np.mean([score.level_db for score in scores])
    worst = sorted(scores, key=lambda score: score.gain("si_sdr"))[:5]
    least = [f"{s.speech} {s.noise} {s.snr} dB {s.gain('si_sdr'):+.1f}" for s in worst]
    lines += ["", f"Level of speech: {level:+.2f} dB. Least SI-SDR gain: {', '.join(least)}."]
    return "\n".join(lines)


def fidelity(pairs: list[Pair], model: str | None) -> str:
    """Report what the model does to clean speech with faint white noise, and to silence."""
    enhance = load_enhancer(model)
    values, levels, seen = [], [], set()
    for pair in pairs:
        if pair.speech in seen:
            continue
        seen.add(pair.speech)
        clean, _ = read_pair(pair)
        hiss = np.random.default_rng(len(seen)).normal(size=len(clean))
        hiss *= 0.01 * np.sqrt(np.mean(clean**2))  # 40 dB below
        out = enhance((clean + hiss).astype(np.float32))
        values.append(si_sdr(out, clean))
        levels.append(10 * np.log10(np.mean(out**2) / np.mean(clean**2)))
    silence = np.abs(enhance(np.zeros(5 * SAMPLE_RATE, np.float32))).max()
    return (
        f"Clean speech ({len(seen)} recordings, 40 dB): "
        f"SI-SDR mean {np.mean(values):.1f}, "
        f"least {np.min(values):.1f} dB; level mean {np.mean(levels):+.2f}, "
        f"furthest {max(levels, key=abs):+.2f} dB. Silence: peak {silence:.1e}."
    )


def typical(scores: list[Score]) -> int:
    """Return the index of the score whose gain in SI-SDR is the median of all."""
    order = sorted(range(len(scores)), key=lambda i: scores[i].gain("si_sdr"))
    return order[len(order) // 2]


def picture(pair: Pair, model: str | None, path: Path) -> None:
    """Draw spectrograms of the noisy, enhanced and clean signals."""
    from matplotlib.figure import Figure

    clean, noisy = read_pair(pair)
    rows = {"noisy": noisy, "enhanced": load_enhancer(model)(noisy), "clean": clean}
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for axis, (title, audio) in zip(axes, rows.items(), strict=True):
        axis.specgram(
            audio + 1e-9,
            NFFT=512,
            Fs=SAMPLE_RATE,
            noverlap=384,
            vmin=-140,
            vmax=-30,
            rasterized=True,
        )
        axis.set(title=title, ylabel="Hz")
    axes[-1].set_xlabel(f"seconds: {pair.speech}, {pair.noise}, {pair.snr} dB")
    figure.savefig(path, dpi=60)


def starts(pairs: list[Pair], model: str | None) -> str:
    """Report what silence before a recording costs, with and without `start_at_sound`.

    The silence comes at the start, or after the same recording, as when a microphone is muted.
    """
    rng = np.random.default_rng(0)
    ahead = {"nothing": np.zeros(0, np.float32)}
    # A hop, after which the sound begins with the hop that completes two frames.
    ahead["16 ms of zeros"] = np.zeros(256, np.float32)
    for seconds in (0.5, 5.0):
        size = round(seconds * SAMPLE_RATE)
        ahead[f"{seconds:g} s of zeros"] = np.zeros(size, np.float32)
        dither = rng.integers(-1, 2, size) / 32768.0
        ahead[f"{seconds:g} s of dither"] = dither.astype(np.float32)
    for seconds in (2, 10, 60):
        ahead[f"itself, then {seconds} s of zeros"] = np.zeros(seconds * SAMPLE_RATE, np.float32)

    def heard(name: str, noisy: np.ndarray) -> np.ndarray:
        lead = [noisy, ahead[name]] if name.startswith("itself") else [ahead[name]]
        return np.concatenate([*lead, noisy])

    return _with_and_without(pairs, model, "start_at_sound", True, "ahead", list(ahead), heard)


def levels(pairs: list[Pair], model: str | None) -> str:
    """Report what a low level of the recording costs, with and without `quiet_level`."""
    level = getattr(npfsn.load_model(model).config, "quiet_level", 0.0)
    if not level:
        raise ValueError("this model has no quiet_level to compare with")
    peaks = {f"{peak} dB": 10 ** (peak / 20) for peak in (-10, -30, *range(-40, -75, -5))}

    def heard(name: str, noisy: np.ndarray) -> np.ndarray:
        return np.float32(peaks[name] / np.abs(noisy).max()) * noisy

    return _with_and_without(pairs, model, "quiet_level", level, "peak", list(peaks), heard)


def _with_and_without(
    pairs: list[Pair],
    model: str | None,
    option: str,
    value: Any,
    title: str,
    cases: list[str],
    heard: Callable[[str, np.ndarray], np.ndarray],
) -> str:
    """Tabulate mean gains in SI-SDR for each case: a function of the mixture, which comes last."""
    own = npfsn.load_model(model)
    rows = [f"| {title} | without | `{option}` |", "|---|---|---|"]
    for case in watched(cases, len(cases)):
        row = f"| {case} |"
        for setting in (type(value)(), value):
            config = replace(own.config, **{option: setting})
            network = npfsn.Model(own.architecture, config, own.tensors)
            gains = []
            for pair in pairs:
                clean, noisy = read_pair(pair)
                out = npfsn.enhance(heard(case, noisy), SAMPLE_RATE, network)[-len(noisy) :]
                gains.append(si_sdr(out, clean) - si_sdr(noisy, clean))
            row += f" {np.mean(gains):+.1f} dB |"
        rows.append(row)
    return "\n".join(rows)


def compare(pairs: list[Pair], model: str | None) -> str:
    """Compare the scores of int8 arithmetic with those of float32 on the same mixtures."""
    loaded = npfsn.load_model(model)
    gains: dict[str, list[float]] = {name: [] for name in METRICS}
    apart = []
    for pair in watched(pairs, len(pairs)):
        clean, noisy = read_pair(pair)
        exact, coarse = (
            npfsn.enhance(noisy, SAMPLE_RATE, loaded, precision=precision)
            for precision in ("float32", "int8")
        )
        before, after = (_measured(pair, clean, audio) for audio in (exact, coarse))
        for name, values in gains.items():
            values.append(after[name] - before[name])
        apart.append(si_sdr(coarse, exact))
    means = {name: float(np.mean(values)) for name, values in gains.items()}
    return (
        f"int8 against float32, {len(pairs)} mixtures: WB-PESQ {means['pesq']:+.3f}, "
        f"STOI {means['stoi']:+.4f}, SI-SDR {means['si_sdr']:+.2f} dB; "
        f"SI-SDR between the two outputs mean {np.mean(apart):.1f}, least {min(apart):.1f} dB."
    )


def hops(pairs: list[Pair], model: str | None) -> str:
    """Compare `Enhancer.last_snr_db` with the clean recordings, hop by hop."""
    found, speaks, errors = [], [], []
    for pair in watched(pairs, len(pairs)):
        clean, noisy = read_pair(pair)
        enhancer = npfsn.Enhancer(model)
        hop, lag = enhancer.frame_length, enhancer.latency_samples
        heard = np.pad(noisy, (0, lag))
        told = []
        for at in range(0, len(heard) - hop + 1, hop):
            enhancer.step(heard[at : at + hop])
            told.append(enhancer.last_snr_db)
        n = len(noisy) // hop
        snr = np.clip(told[lag // hop :][:n], -100.0, 100.0)  # silence tells -inf
        speech, noise = (
            np.sum(np.square(x[: n * hop].reshape(n, hop), dtype=np.float64), axis=1)
            for x in (clean, noisy - clean)
        )
        loud = speech > 1e-3 * speech.max()
        found.append(snr)
        speaks.append(loud)
        errors.append(snr[loud] - 10 * np.log10(speech[loud] / np.maximum(noise[loud], 1e-12)))
    snr, loud, error = (np.concatenate(parts) for parts in (found, speaks, errors))
    bias = round(float(error.mean()), 1) + 0.0  # no -0.0
    rows = [
        f"{len(pairs)} mixtures, {len(snr)} hops. In {loud.mean():.0%} of them somebody speaks: "
        "the clean hop is at most 30 dB below the loudest. There `last_snr_db` is off by "
        f"{np.abs(error).mean():.1f} dB on average, {bias:+.1f} dB in the mean.",
        "",
        "| `last_snr_db` above | with speech | without |",
        "|---|---|---|",
    ]
    for limit in (-10, -5, 0, 5):
        above = snr > limit
        rows.append(f"| {limit} dB | {above[loud].mean():.0%} | {above[~loud].mean():.0%} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    """Judge a model on a folder of pairs, or make such a folder from speech and noise files."""
    try:
        _main(arguments)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"tools.evaluate needs {error.name}: pip install -e '.[eval]', for a .tar '.[train]'"
        ) from None
    except (ValueError, OSError, soundfile.SoundFileError) as error:
        raise SystemExit(f"tools.evaluate: {error}") from None


def _main(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pairs_help = "folder with clean/ and noisy/, X_NOISE_snrDB.wav in both, as mix makes it"
    every = number(int, 1, 1_000_000, "a whole number from 1 on")
    # Sorted by name, all levels and noises of one sentence are adjacent.
    few = (
        "only every n-th pair; if n shares a factor with the number of levels or noises, some of "
        "these drop out"
    )
    mixing = commands.add_parser("mix", help="mix speech_* and noise_* files of a folder")
    mixing.add_argument("audio", type=Path, help="folder of speech_* and noise_* at 16 kHz")
    mixing.add_argument("out", type=Path, help="folder to make")
    mixing.add_argument(
        "--snr", metavar="DB", type=int, nargs="+", default=SNRS,
        help=f"levels of speech over noise (default: {' '.join(map(str, SNRS))})",
    )  # fmt: skip
    judging = commands.add_parser("judge", help="print the table of a folder of pairs")
    judging.add_argument("pairs", type=Path, help=pairs_help)
    judging.add_argument(
        "-m",
        "--model",
        help=".npz, or .tar of tools.train (convert others with npfsn-convert first); default: the "
        "built-in weights",
    )
    judging.add_argument("--workers", type=every, default=1, help="processes (default: 1)")
    judging.add_argument("--every", type=every, default=1, help=few)
    judging.add_argument("--json", type=result_file, help="also write every score")
    judging.add_argument("--picture", type=picture_file, help="also draw the pair of median gain")
    tables = {"starts": starts, "levels": levels, "compare": compare, "hops": hops}
    for name, what in (
        ("starts", "print what silence ahead of recordings costs"),
        ("levels", "print what quiet recordings cost"),
        ("compare", "print what int8 costs against float32"),
        ("hops", "print how well last_snr_db tells speech from noise, hop by hop"),
    ):
        telling = commands.add_parser(name, help=what)
        telling.add_argument("pairs", type=Path, help=pairs_help)
        telling.add_argument("-m", "--model", help=".npz; default: the built-in weights")
        telling.add_argument("--every", type=every, default=1, help=few)
    options = parser.parse_args(arguments)
    if options.command == "mix":
        print(f"{mix(options.audio, options.out, tuple(options.snr))} pairs in {options.out}")
        return
    pairs = find_pairs(options.pairs)[:: options.every]
    if options.command in tables:
        print(tables[options.command](pairs, options.model))
        return
    scores = judge(pairs, options.model, options.workers)
    print(table(scores))
    print(fidelity(pairs, options.model))
    if options.json:
        options.json.write_text(json.dumps([asdict(score) for score in scores]))
    if options.picture:
        picture(pairs[typical(scores)], options.model, options.picture)


if __name__ == "__main__":
    main()

"""`npfsn`: the command line.

Arguments and exit codes. Slow imports are deferred until they are needed, so that `--help` and
`--version` answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__, pipe
from .bench import QUICK_SECONDS, SECONDS
from .config import MAX_RATE, MIN_RATE
from .describe import arithmetic, latency, norm_in_words, starts, streaming
from .errors import NpfsnError, in_shell
from .stopping import Stopped, ended, held_back, stoppable
from .terminal import (
    ArgumentParser,
    StatusLine,
    UsageError,
    duration,
    hush_compiler,
    norm_name,
    number,
    open_standard_streams,
    print_error,
    print_raw_error,
    print_result,
)

EXIT_OK = 0
EXIT_USAGE = 2


# --- arguments ---------------------------------------------------------------------------------

_MAIN_EPILOG = """\
examples:
  npfsn enhance noisy.wav                 writes noisy_enhanced.wav beside it
  npfsn enhance recordings/ -r -o clean/  a folder and all below it
  npfsn live                              from the microphone to headphones
  npfsn info                              what the built-in model is, and its latency
  npfsn warmup                            compile now rather than on the first call

`npfsn COMMAND --help` explains one command.

exit codes: 0 done, 1 something failed, 2 wrong arguments, 130 interrupted, 143 terminated,
129 the terminal is gone.
"""

_ENHANCE_EPILOG = """\
examples:
  npfsn enhance noisy.wav                      -> noisy_enhanced.wav
  npfsn enhance noisy.wav -o clean.wav         -> clean.wav
  npfsn enhance a.flac b.mp3 -o clean/         -> clean/a_enhanced.flac, clean/b_enhanced.mp3
  npfsn enhance recordings/ -r -o clean/ --no-suffix --workers 4
  npfsn enhance recordings/ -o clean/ --resume     only what is not done yet
  npfsn enhance @files.txt -o clean/           one path a line (same as --list files.txt)
  npfsn enhance noisy.wav -a 12                take out at most 12 dB of noise
  npfsn enhance old.sd2 --format wav           write another container
  npfsn enhance -- -odd-name.wav               a name that begins with a dash

Sample rate, channels, length, bit depth, container, level and tags are kept, and the output is
aligned with the input. Tags are title, artist, comment and such, in MP3 only those in ASCII; for
WAV and AIFF also time code and markers; never pictures. The encoders of MP3, Ogg and Opus choose
their own bit rates. Samples pass through 32-bit floats, which hold 24 bits. A model for 16 kHz
passes only what lies below 8 kHz, whatever the rate of the file.
Outputs appear under their names only when complete; until then they are called .npfsn-*.part.
Delete these if a crash or kill -9 has left some. One bad file does not stop the others.
Memory does not grow with the length of a file, unless the norm of the model needs the whole signal.

exit codes: 0 all files enhanced, 1 some failed, 2 wrong arguments,
130 interrupted, 143 terminated, 129 the terminal is gone.
"""

_STREAM_EPILOG = """\
examples:
  ffmpeg -i call.mp3 -f f32le -ac 1 -ar 16000 - | npfsn stream --format f32le > clean.raw
  arecord -t raw -f S16_LE -r 16000 | npfsn stream | aplay -t raw -f S16_LE -r 16000
  sox in.wav -t f32 -r 48000 -c 1 - | npfsn stream --format f32le --rate 48000 > clean.raw

Raw mono samples in, raw mono samples out, each hop as soon as it is ready. The output is as long
as the input and aligned with it: it does not begin with zeros for the latency, and the last samples
come when the input ends. With --keep-latency the zeros stay, so that every hop in gives a hop out
(at the model's rate; at other rates the filters wait, too).

exit codes: 0 the input ended or the reader closed the pipe, 1 error, 2 wrong arguments,
130 interrupted (what had been read is enhanced first), 143 terminated, 129 the terminal is gone.
"""

_LIVE_EPILOG = """\
examples:
  npfsn live                     from the system's microphone to its headphones
  npfsn live -l                  which devices there are
  npfsn live -i USB -o 5         devices by part of a name, and by number
  npfsn live --latency 100       larger buffers of the sound system, against dropouts

Use headphones: a microphone that hears its own loudspeaker howls. To pass the clean voice to
another program, choose a virtual cable as the output (PulseAudio and PipeWire: module-null-sink;
BlackHole; VB-CABLE). If a device refuses the model's sample rate, one that both accept is used and
converted.

Needs the package sounddevice: pip install sounddevice
On Linux also the library PortAudio, for instance: apt install libportaudio2

exit codes: 0 ended by Ctrl-C or --seconds, 1 error, 2 wrong arguments, 130 interrupted before it
began, 143 terminated, 129 the terminal is gone.
"""

_INFO_EPILOG = """\
examples:
  npfsn info
  npfsn info model.npz
"""

_WARMUP_EPILOG = """\
examples:
  npfsn warmup             every kernel that any model needs
  npfsn warmup model.npz   those that this model needs

The compiled kernels are kept on disk; NUMBA_CACHE_DIR names another folder for them.
Run this when building an image, so that the first call in it is fast.
"""


_BENCH_EPILOG = """\
examples:
  npfsn bench                        the built-in model: p50, p95, p99 and worst step
  npfsn bench -m model.npz --precision int8 --json > bench.json
  npfsn bench --profile              where the time of a step goes
"""


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="npfsn",
        description="Speech enhancement with the FullSubNet family, on files and live streams.",
        epilog=_MAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"npfsn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_enhance(commands)
    _add_stream(commands)
    _add_live(commands)
    _add_info(commands)
    _add_warmup(commands)
    _add_bench(commands)
    parser.set_defaults(
        commands={name: _long_options(command) for name, command in commands.choices.items()}
    )
    return parser


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, epilog: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    group.add_argument("-v", "--verbose", action="store_true", help="say more, also about errors")


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", "--model", metavar="PATH", help="model file (default: the built-in one)"
    )
    parser.add_argument(
        "--norm",
        metavar="NAME",
        type=norm_name,
        help="run the model with this norm instead of its own, such as cumulative_laplace_norm",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="arithmetic of the large products, whatever the precision of the file: int8 is faster "
        "and nearly as exact (default: %(default)s)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument(
        "-a",
        "--atten-lim",
        "--atten-lim-db",
        dest="atten_lim",
        metavar="DB",
        type=_decibels,
        help="attenuate noise by at most DB: 0 changes nothing, 12 leaves some of the room "
        "(default: no limit)",
    )
    parser.add_argument(
        "--norm-horizon",
        metavar="S",
        type=_horizon,
        help="let running norms forget what is older than S seconds, 1 or more, for hours in rooms "
        "that change (default: cumulative norms remember everything, as published); "
        "forgetting_norm remembers 192 frames at most, offline norms have no horizon",
    )


def _add_enhance(commands: Any) -> None:
    parser = _add(commands, "enhance", _enhance, "Enhance sound files.", _ENHANCE_EPILOG)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE",
        help="files, folders (names in them that begin with a dot are skipped), or @LIST with one "
        "path a line",
    )
    parser.add_argument(
        "-i", "--noisy-dir", metavar="DIR", action="append", default=[], help="a folder of files"
    )
    parser.add_argument(
        "--list",
        metavar="FILE",
        action="append",
        default=[],
        help="a text file with one path a line; lines that begin with # are skipped; - stands for "
        "standard input",
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="also enter the folders inside folders"
    )
    parser.add_argument(
        "-o",
        "--output",
        "--output-dir",
        dest="output_dir",
        metavar="PATH",
        help="where to write: a folder, which keeps the structure of the input's folders, or, for "
        "one file, the name of its output, with a suffix such as .wav (default: beside each input)",
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--suffix",
        metavar="TEXT",
        type=_suffix,
        default="_enhanced",
        help="what to append to the names of outputs (default: %(default)s)",
    )
    names.add_argument(
        "--no-suffix",
        dest="suffix",
        action="store_const",
        const="",
        help="keep the names of the inputs",
    )
    parser.add_argument(
        "--format",
        metavar="EXT",
        type=_container,
        help="write another container, such as wav or flac (default: that of the input)",
    )
    _add_model(parser)
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_count,
        default=1,
        help="processes, one file each at a time (default: 1)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite outputs that exist")
    existing.add_argument(
        "--resume", action="store_true", help="skip files whose output exists already"
    )
    _add_verbosity(parser)


def _enhance(args: argparse.Namespace) -> int:
    with held_back():
        from .batch import enhance_all

    return enhance_all(args)


def _add_stream(commands: Any) -> None:
    parser = _add(
        commands,
        "stream",
        _stream,
        "Enhance raw samples from standard input to standard output.",
        _STREAM_EPILOG,
    )
    parser.add_argument(
        "--format",
        choices=tuple(pipe.SAMPLE_TYPES),
        default="s16le",
        help="format of the samples, in and out (default: %(default)s)",
    )
    parser.add_argument(
        "--rate", metavar="HZ", type=_rate, help="sample rate, in and out (default: the model's)"
    )
    parser.add_argument(
        "--keep-latency", action="store_true", help="leave the zeros of the latency at the start"
    )
    _add_model(parser)
    _add_verbosity(parser)


def _add_live(commands: Any) -> None:
    parser = _add(
        commands, "live", _live, "Enhance live, from a microphone to headphones.", _LIVE_EPILOG
    )
    parser.add_argument(
        "-l", "--list-devices", action="store_true", help="list the sound devices and exit"
    )
    for short, kind in (("-i", "input"), ("-o", "output")):
        parser.add_argument(
            short,
            f"--{kind}",
            metavar="DEVICE",
            type=lambda text: int(text) if text.isdecimal() else text,
            help=f"number or part of the name of the {kind} device (default: the system's)",
        )
    parser.add_argument(
        "--latency",
        metavar="MS",
        type=_above_zero,
        help="latency to ask of the sound system: more helps against dropouts (default: as little "
        "as it offers)",
    )
    parser.add_argument(
        "--seconds", metavar="S", type=_above_zero, help="end after S seconds (default: on Ctrl-C)"
    )
    _add_model(parser)
    _add_verbosity(parser)


def _add_model_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the model as a positional argument, or as -m like in the other commands."""
    either = parser.add_mutually_exclusive_group()
    # Both share one destination: with SUPPRESS, an absent argument does not overwrite the option.
    either.add_argument(
        "model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=f"default: {default}"
    )
    either.add_argument(
        "-m", "--model", dest="model", metavar="MODEL", help="the same, as an option"
    )


def _add_info(commands: Any) -> None:
    parser = _add(commands, "info", _info, "Describe a model.", _INFO_EPILOG)
    _add_model_argument(parser, "the built-in one")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the whole configuration")


def _add_warmup(commands: Any) -> None:
    parser = _add(commands, "warmup", _warmup, "Compile all kernels ahead of time.", _WARMUP_EPILOG)
    _add_model_argument(parser, "every architecture")
    _add_verbosity(parser)


def _add_bench(commands: Any) -> None:
    parser = _add(
        commands, "bench", _bench, "Measure what one step costs on this machine.", _BENCH_EPILOG
    )
    _add_network(parser)
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=number(float, 0.1, 3600.0, "a number of seconds from 0.1 to 3600"),
        help=f"length of each signal (default: {SECONDS:g}, with --quick {QUICK_SECONDS:g})",
    )
    parser.add_argument(
        "--streams",
        metavar="N",
        type=_count,
        help="also time N streams, one by one and in one call (EnhancerGroup)",
    )
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw steps and stages over time (needs matplotlib)"
    )
    parser.add_argument(
        "--cold", action="store_true", help="also time a start that must compile (some 10 seconds)"
    )
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more about errors")
    parser.add_argument(
        "--quick", action="store_true", help="a short run, to see that it works; figures are rough"
    )


_decibels = number(float, 0.0, float("inf"), "a number of decibels from 0 up")
_above_zero = number(float, sys.float_info.min, sys.float_info.max, "a number above 0")
_horizon = number(float, 1.0, sys.float_info.max, "a number of seconds from 1 up")
_count = number(int, 1, 256, "a whole number from 1 to 256")
_rate = number(int, MIN_RATE, MAX_RATE, f"a sample rate from {MIN_RATE} to {MAX_RATE} Hz")


def _suffix(text: str) -> str:
    if any(mark in text for mark in ("/", "\\", "\0")):
        raise argparse.ArgumentTypeError(f"{text!r} would lead to another folder")
    return text


def _container(text: str) -> str:
    name = text.lower().removeprefix(".")
    if not name.isalnum():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file suffix such as wav or flac")
    return name


def _with_dashes(argv: Sequence[str]) -> list[str]:
    """Accept long options with underscores, such as `--output_dir`, by replacing them by dashes."""
    spelled = list(argv)
    for index, argument in enumerate(spelled):
        if argument == "--":
            break
        if argument.startswith("--"):
            name, mark, value = argument.partition("=")
            spelled[index] = name.replace("_", "-") + mark + value
    return spelled


def _long_options(parser: argparse.ArgumentParser) -> list[str]:
    """Return the names of a command's long options, which argparse does not make public."""
    return [name for name in parser._option_string_actions if name.startswith("--")]


def _single_dash(options: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Return a slip such as -output, which argparse would read as `-o utput`, if there is one."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    slips = (word for word in before if f"-{word.partition('=')[0]}" in options)
    return next((word for word in slips if not os.path.lexists(word)), None)


def _near(options: Sequence[str], unknown: Sequence[str]) -> str | None:
    """Return the option that one of the unknown words resembles, or None."""
    import difflib

    for word in unknown:
        name = word.partition("=")[0]
        for near in difflib.get_close_matches(name, options, 1, 0.75):
            return near
    return None


# --- the command -------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run `npfsn`.

    Parameters
    ----------
    argv : sequence of str, optional
        Default: the arguments of the process.

    Returns
    -------
    int
        The exit code: 0 all is well, 1 something failed, 2 wrong arguments, 130 interrupted,
        143 terminated, 129 the terminal is gone.
    """
    open_standard_streams()
    arguments = _with_dashes(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    args = argparse.Namespace()
    try:
        with stoppable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser = _parser()
            known = parser.get_default("commands")
            if slip := _single_dash(known.get(command, ()), arguments):
                print_error(f"error: {slip}: did you mean -{slip}?")
                return EXIT_USAGE
            meant = None
            if command and os.path.exists(command):
                is_model = command.lower().endswith(".npz")
                meant = in_shell(["npfsn", "info" if is_model else "enhance", command])
            meant = "npfsn-convert" if command == "convert" else meant
            if command not in known and meant:
                print_error(f"error: {command} is no command; did you mean: {meant}")
                return EXIT_USAGE
            args, unknown = parser.parse_known_args(arguments)
            # Inputs after an option, which argparse does not assign to the command.
            if args.command == "enhance":
                end = unknown.index("--") if "--" in unknown else len(unknown)
                if not any(word.startswith("-") for word in unknown[:end]):
                    args.inputs += unknown[:end] + unknown[end + 1 :]
                    unknown = []
            if unknown:  # argparse would show the usage of `npfsn`, not of the command
                wrong = " ".join(unknown)
                files = [name for name in unknown if os.path.exists(name)]
                hint = ""
                if files and files[0].startswith("-"):
                    hint = f" (a file of that name is {in_shell([f'./{files[0]}'])})"
                elif files and args.command in ("stream", "live"):
                    hint = f" (for a file: {in_shell(['npfsn', 'enhance', files[0]])})"
                elif files and args.command == "bench":
                    hint = f" (for a model: {in_shell(['-m', files[0]])})"
                elif near := _near(known.get(args.command, _long_options(parser)), unknown):
                    hint = f" (did you mean {near}?)"
                getattr(args, "parser", parser).error(f"unrecognized arguments: {wrong}{hint}")
            if args.command is None:
                parser.print_help(sys.stderr)
                return EXIT_USAGE
            return int(args.run(args))
    except SystemExit as stop:  # argparse has printed the error
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except UsageError as error:
        args.parser.print_usage(sys.stderr)
        print_error(f"error: {error}")
        return EXIT_USAGE
    except (Exception, KeyboardInterrupt, Stopped) as error:
        return ended(error, verbose=getattr(args, "verbose", False))
    finally:
        print_raw_error("")  # sends off, or drops, what others could not print


# --- npfsn stream, live, info, warmup, bench ---------------------------------------------------


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of an `Enhancer`, without the limit, which applies at the outer rate."""
    return {
        "model": args.model,
        "precision": args.precision,
        "norm": args.norm,
        "on_nonfinite": "zero",
        "norm_horizon": args.norm_horizon,
    }


def _stream(args: argparse.Namespace) -> int:
    return pipe.main(args, _options(args))


def _live(args: argparse.Namespace) -> int:
    with held_back():
        from . import live
        from .live_stream import LiveStream

    make = functools.partial(LiveStream, atten_lim_db=args.atten_lim, **_options(args))
    return live.main(args, make)


def _info(args: argparse.Namespace) -> int:
    with held_back():
        from .weights import default_path, load_model

    model = load_model(args.model)
    config = model.config
    path = Path(args.model) if args.model else default_path()
    source = model.info["source"]
    rows = [
        ("model", model.architecture),
        ("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if path.is_file() else str(path)),
        ("parameters", f"{model.n_parameters:,}"),
        ("stored as", model.info["precision"]),
        ("sample rate", f"{config.sample_rate} Hz"),
        ("window, hop", f"{config.n_fft}, {config.hop_length} samples"),
        ("look-ahead", f"{config.look_ahead} frames"),
        ("norm", norm_in_words(config, source)),
        ("streams", streaming(config)),
        ("latency", latency(config)),
        ("starts", starts(config)),
        ("arithmetic", arithmetic(config)),
        ("made from", source.get("name", "unknown")),
        ("its sha-256", source.get("sha256", "unknown")),
        ("converter", model.info["converter"]),
        ("file format", str(model.info["format"])),
    ]
    if args.verbose:
        rows += [
            (item.name, str(getattr(config, item.name))) for item in dataclasses.fields(config)
        ]
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        print_result(f"{name:<{width}}{value}")
    return EXIT_OK


def _warmup(args: argparse.Namespace) -> int:
    hush_compiler(True)  # compiling is what was asked for
    started = time.perf_counter()
    with held_back():
        from .machine_code import cache_folders, n_unkept
        from .warmup import warm_up
        from .weights import load_model

    model = load_model(args.model) if args.model else None

    def progress(name: str, seconds: float) -> None:
        if args.verbose:
            print_result(f"{name}: {seconds:.1f} s")

    if not args.quiet:
        print_result("compiling what is not there yet, up to a minute the first time ...")
    warm_up(model, progress=progress)
    if n_unkept():
        raise NpfsnError(
            f"not all kernels could be kept ({n_unkept()} not), so that later starts will compile "
            "again: set NUMBA_CACHE_DIR to a folder that can be written, on a disk with 10 MB free"
        )
    if not args.quiet:
        took = duration(time.perf_counter() - started)
        print_result(f"kernels ready after {took}, kept in {' and '.join(cache_folders())}")
    return EXIT_OK


def _bench(args: argparse.Namespace) -> int:
    with held_back():
        from .bench.measure import bench
        from .bench.page import page
        from .bench.picture import draw, picture_kind
        from .output import complete_or_absent
        from .weights import load_model

    def show(result: dict[str, Any]) -> None:
        drawings = {"steps_ms", "timeline"}
        figures = {name: value for name, value in result.items() if name not in drawings}
        text = json.dumps(figures, indent=1) if args.json else "\n".join(page(result))
        for row in text.splitlines():
            print_result(row)

    line = StatusLine(True)
    with contextlib.ExitStack() as stack:
        stack.callback(line.clear)
        if args.plot is not None:  # refuse it now, not after a minute of measuring
            kind = picture_kind(args.plot)
            picture = stack.enter_context(complete_or_absent(Path(args.plot), overwrite=True))
        result = bench(
            load_model(args.model),
            args.model,
            precision=args.precision,
            norm=args.norm,
            seconds=args.seconds,
            profile=args.profile or args.plot is not None,
            cold=args.cold,
            quick=args.quick,
            streams=args.streams,
            progress=line.draw,
        )
        line.clear()
        if args.plot is not None:
            try:
                draw(result, picture, kind)
            except Exception as error:  # the figures are not lost with the picture
                with contextlib.suppress(OSError, NpfsnError):
                    show(result)
                if isinstance(error, OSError):  # a full disk names no file
                    error.filename = args.plot
                raise
    show(result)  # now that the picture is kept, even if nobody reads this
    return EXIT_OK


def convert(argv: Sequence[str] | None = None) -> int:
    """Run `npfsn-convert` (`npfsn.convert.main`), ready for signals while it is imported."""
    try:
        with stoppable(), held_back():
            from .convert import main
        return main(argv)
    except (KeyboardInterrupt, Stopped) as error:
        return ended(error, "npfsn-convert")

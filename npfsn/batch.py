"""`npfsn enhance`: run the jobs of a plan, in one process or several, and report the results."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import secrets
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .config import OFFLINE_NORMS
from .errors import NpfsnError, listed, one_line
from .output import mark_unfinished, remove_unfinished
from .plan import Job, Plan, make_plan
from .report import LOUD, QUIET, TOO_QUIET
from .stopping import Stopped, handled, held_back, stoppable
from .terminal import (
    REDRAW_SECONDS,
    StatusLine,
    columns,
    cut,
    duration,
    hush_compiler,
    libraries_silenced,
    print_error,
    print_raw_error,
    print_report,
    sentence,
)

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from .options import Progress
    from .report import FileReport

# How long workers get to remove their half-written files.
WORKER_GRACE_SECONDS = 10.0


@dataclass
class _Totals:
    """What has been done so far."""

    reports: list[tuple[Job, FileReport]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    n_skipped: int = 0  # jobs whose output another program made in the meantime


def _worker(args: argparse.Namespace) -> Callable[[Job, Progress], FileReport]:
    """Return a function that enhances files, one after the other, with the model of `args`."""
    with held_back():
        from . import enhancer  # noqa: F401  # what `audio` imports later
        from .audio import enhance_file
        from .weights import load_model

    model = load_model(args.model)
    if args.norm_horizon is not None and not args.quiet:
        norm = args.norm or model.norm
        if norm in OFFLINE_NORMS:
            print_error(f"warning: --norm-horizon changes nothing: {norm} takes the whole signal")

    def work(job: Job, progress: Progress) -> FileReport:
        return enhance_file(
            job.src,
            job.dst,
            model,
            norm=args.norm,
            precision=args.precision,
            atten_lim_db=args.atten_lim,
            norm_horizon=args.norm_horizon,
            overwrite=args.force,
            progress=progress,
        )

    return work


def enhance_all(args: argparse.Namespace) -> int:
    """Enhance the files that the arguments of `npfsn enhance` name.

    Parameters
    ----------
    args : argparse.Namespace
        As `npfsn.cli` makes them.

    Returns
    -------
    int
        The exit code.
    """
    started = time.perf_counter()
    hush_compiler(args.quiet)
    plan = make_plan(args)
    totals = _Totals(failures=list(plan.failures))
    for message in dict.fromkeys(message for _, message in plan.failures):
        print_error(f"error: {message}")

    code = 0
    alone = args.workers == 1 or len(plan.jobs) < 2
    # Workers silence their own decoders, but inherit the standard streams of this process.
    with libraries_silenced() if alone else contextlib.nullcontext():
        line = _ProgressLine(plan.jobs, wanted=not args.quiet)
        run = _Run(args, plan.jobs, totals, line)
        try:
            if alone:
                _run_here(run)
            else:
                _run_workers(run)
        except (KeyboardInterrupt, Stopped) as stop:
            signum = stop.signum if isinstance(stop, Stopped) else signal.SIGINT
            code = 128 + signum
            line.clear()
            left = len(plan.jobs) - len(totals.reports) - len(totals.failures)
            left += len(plan.failures) - totals.n_skipped
            # After --force, --resume would take outputs of earlier runs for those of this one.
            again = "--force" if args.force else "--resume for the rest"
            print_error(
                f"{'interrupted' if signum == signal.SIGINT else 'terminated'} with "
                f"{_files(left)} not done: complete outputs stay, run again with {again}"
            )
        finally:
            line.clear()
        if not args.quiet:
            _report_losses(totals)
            if plan.foreign:
                print_error(
                    f"warning: left out {listed(plan.foreign)}: convert such files first, for "
                    "instance with ffmpeg -i IN OUT.wav"
                )
            workers = 1 if alone else min(args.workers, len(plan.jobs))
            print_report(_summary(totals, plan, time.perf_counter() - started, workers))
    return code or int(bool(totals.failures))


@dataclass
class _Run:
    """The jobs of a plan while they are done: what is kept and said of each."""

    args: argparse.Namespace
    jobs: list[Job]
    totals: _Totals
    line: _ProgressLine

    def done(self, job: Job, report: FileReport) -> None:
        self.totals.reports.append((job, report))
        self.line.finish(job, report.seconds)
        if self.args.verbose:
            self.line.clear()
            print_report(
                f"{job.src} -> {job.dst} ({report.seconds:.1f} s, {report.channels} "
                f"channel{'s' if report.channels > 1 else ''}, {report.sample_rate} Hz, real-time "
                f"factor {report.rtf:.3f})"
            )

    def failed(self, job: Job, message: str, origin: str = "") -> None:
        self.line.finish(job, 0.0)
        if self.args.resume and os.path.isfile(job.dst):  # it was not there when the plan was made
            self.totals.n_skipped += 1
            return
        self.totals.failures.append((str(job.src), message))
        self.line.clear()
        # Unlike our own messages, those of the system may lack the name.
        named = one_line(str(job.src)) in message
        print_error(f"error: {message if named else f'{job.src}: {message}'}")
        print_raw_error(origin)


def _run_here(run: _Run) -> None:
    """Enhance the files in this process."""
    if not run.jobs:
        return
    work = _worker(run.args)
    for job in run.jobs:
        run.line.start(job)
        try:
            report = work(job, functools.partial(run.line.update, job))
        except Exception as error:
            origin = "".join(traceback.format_exception(error)) if run.args.verbose else ""
            run.failed(job, sentence(error), origin)
        else:
            run.done(job, report)


def _report_losses(totals: _Totals) -> None:
    """Warn, once for all files, of quiet inputs and of tags and samples that could not be kept."""
    quiet = [str(job.src) for job, report in totals.reports if 0.0 < report.peak < QUIET]
    if quiet:
        print_error(
            f"warning: {TOO_QUIET}: {listed(quiet)}; raise such files first, for instance with: "
            "ffmpeg -i IN -af volume=30dB OUT.wav"
        )
    loud = [str(job.src) for job, report in totals.reports if report.peak > LOUD]
    if loud:
        print_error(
            f"warning: samples {LOUD:,.0f} times as large as full scale and more: {listed(loud)}; "
            "if they are damage, speech after them may be lost: mend such files first"
        )
    tags = [
        f"{', '.join(report.tags_left_out)} of {job.src}"
        for job, report in totals.reports
        if report.tags_left_out
    ]
    if tags:
        print_error(f"warning: tags that the output cannot hold were left out: {listed(tags)}")
    for attribute, what in (
        ("n_nonfinite", "NaN or infinite samples were replaced by zero"),
        ("n_clipped", "samples beyond full scale were clipped"),
    ):
        counts = [(str(job.src), getattr(report, attribute)) for job, report in totals.reports]
        if total := sum(count for _, count in counts):
            names = listed([name for name, count in counts if count])
            print_error(f"warning: {total} {what} in {names}")


def _summary(totals: _Totals, plan: Plan, wall: float, workers: int) -> str:
    """Sum up the run in one line."""
    n_done, n_failed = len(totals.reports), len(totals.failures)
    seconds = sum(report.seconds for _, report in totals.reports)
    text = f"{_files(n_done)} enhanced, {duration(seconds)} of audio in {duration(wall)}"
    # Loading and compiling do not count towards the speed.
    complete = n_done >= len(plan.jobs)  # time spent on other files is in no report
    workers = min(workers, n_done) or 1
    busy = sum(report.wall_seconds for _, report in totals.reports) / workers
    if workers == 1 and complete:
        before = wall - busy
    else:  # workers load side by side
        before = max((report.compile_seconds for _, report in totals.reports), default=0.0)
    if workers > 1 and complete:  # not all are busy until the end
        busy = max(busy, wall - before)
    if n_done and before > max(0.1 * wall, 0.05):
        text += f", {duration(before)} of which went into loading and compiling"
    if seconds > 0.0 and busy > 0.0:
        text += f": real-time factor {busy / seconds:.3f} ({seconds / busy:.1f}x real time)"
    if n_skipped := plan.n_skipped + totals.n_skipped:
        text += f"; {n_skipped} skipped, already there"
    if plan.n_outputs:
        text += f"; {plan.n_outputs} left out, called like outputs of others"
    if n_failed:
        text += f"; {n_failed} failed: {listed([name for name, _ in totals.failures])}"
    if n_done:
        outputs = [job.dst for job, _ in totals.reports]
        folders = {str(path.parent) for path in outputs}
        where = str(outputs[0]) if n_done == 1 else listed(sorted(folders))
        text += f"; written to {where}"
    return text


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


class _ProgressLine:
    """One line on a terminal that shows progress, speed and remaining time.

    Parameters
    ----------
    jobs : list of Job
        Weighted by size in bytes, since their lengths are not known yet.
    wanted : bool
        Whether to draw the line. Without a terminal nothing is drawn.
    """

    def __init__(self, jobs: list[Job], *, wanted: bool) -> None:
        self._line = StatusLine(wanted)
        # Time of the first enhanced samples, with the seconds of audio and the share done by then:
        # speed is measured from there on, without loading and compiling.
        self._began: tuple[float, float, float] | None = None
        self._n_jobs = len(jobs)
        self._bytes_all = sum(job.n_bytes for job in jobs) or 1
        self._bytes_done = 0
        self._seconds_done = 0.0
        self._n_done = 0
        self._running: dict[Job, tuple[float, float]] = {}

    def start(self, job: Job) -> None:
        """Show a file as running."""
        self._running[job] = (0.0, 1.0)
        self._draw()

    def update(self, job: Job, done: float, total: float) -> None:
        """Note how many seconds of a file are done."""
        self._running[job] = (done, total)
        self._draw()

    def finish(self, job: Job, seconds: float) -> None:
        """Note that a file of that many seconds is done."""
        self._running.pop(job, None)
        self._n_done += 1
        self._bytes_done += job.n_bytes
        self._seconds_done += seconds
        self._draw()

    def clear(self) -> None:
        """Wipe the line, so that something else can be printed."""
        self._line.clear()

    def _draw(self) -> None:
        if not self._line.due:
            return
        now = time.perf_counter()
        audio = self._seconds_done + sum(done for done, _ in self._running.values())
        weight = self._bytes_done + sum(
            job.n_bytes * min(done / total, 1.0) if total else 0.0
            for job, (done, total) in self._running.items()
        )
        share = min(weight / self._bytes_all, 1.0)
        text = f"[{min(self._n_done + 1, self._n_jobs)}/{self._n_jobs}] {share:4.0%}"
        if self._began is None and audio > 0.0:
            self._began = now, audio, share
        if self._began is not None and now > self._began[0]:
            elapsed, audio = now - self._began[0], audio - self._began[1]
            text += f"  {audio / elapsed:.1f}x real time"
            if share > self._began[2]:
                left = elapsed * (1.0 - share) / (share - self._began[2])
                text += f"  {duration(left)} left"
        room = self._line.room - len(text) - 2
        name = one_line(next(iter(self._running)).src.name if self._running else "")
        if columns(name) > room:
            name = cut(name, max(room - 3, 0)) + "..."
        self._line.draw(f"{text}  {name}")


# --- several processes -------------------------------------------------------------------------


@dataclass
class _Process:
    """A worker process as its parent sees it."""

    process: BaseProcess
    pipe: Connection
    mark: str  # in the names of its unfinished files (`npfsn.output`)
    job: Job | None = None

    def clean_up(self) -> None:
        """Remove the unfinished files of a worker that has ended."""
        if self.job is not None:
            remove_unfinished(self.job.dst.parent, self.mark)


def _run_workers(run: _Run) -> None:
    """Enhance the files in several processes, a file each at a time."""
    from multiprocessing import connection

    args, waiting = run.args, list(reversed(run.jobs))
    workers = [_launch(args, index == 0) for index in range(min(args.workers, len(waiting)))]
    try:
        while workers:
            for pipe in connection.wait([worker.pipe for worker in workers]):
                worker = next(w for w in workers if w.pipe is pipe)
                try:
                    kind, *content = worker.pipe.recv()
                except (EOFError, OSError):
                    # Killed, for instance for want of memory: its file fails, the batch goes on.
                    workers.remove(worker)
                    worker.process.join()
                    code = worker.process.exitcode or 0
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    worker.clean_up()
                    if worker.job is not None:
                        message = (
                            f"its worker process was killed ({how})"
                            if code
                            else "its worker process was terminated"  # by SIGTERM, which it heard
                        )
                        if code == -9:  # SIGKILL, which Windows has no name for
                            message += ", perhaps for want of memory: try fewer --workers"
                        run.failed(worker.job, message)
                        if waiting:
                            workers.append(_launch(args, first=False))
                    elif waiting and not workers:  # with other workers left, they do its share
                        raise NpfsnError(f"the worker processes could not start ({how})") from None
                    continue
                if kind == "fatal":
                    raise NpfsnError(*content)
                if kind == "progress":
                    if worker.job is not None:
                        run.line.update(worker.job, *content)
                    continue
                if kind == "done" and worker.job is not None:
                    run.done(worker.job, *content)
                if kind == "failed" and worker.job is not None:
                    run.failed(worker.job, *content)
                worker.job = waiting.pop() if waiting else None
                if worker.job is None:
                    workers.remove(worker)
                    worker.pipe.close()
                    worker.process.join(WORKER_GRACE_SECONDS)
                else:
                    run.line.start(worker.job)
                    with contextlib.suppress(OSError):  # noticed by recv
                        worker.pipe.send(worker.job)
    finally:
        _end(workers)


def _launch(args: argparse.Namespace, first: bool) -> _Process:
    """Start a worker process; only the first one announces compilation."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")  # a fork would copy threads and locks
    ours, theirs = context.Pipe()
    # Without what only the command line needs, which does not pickle well.
    settings = argparse.Namespace(**vars(args))
    del settings.run, settings.parser
    settings.quiet = args.quiet or not first
    mark = secrets.token_hex(8)
    process = context.Process(target=_work, args=(theirs, settings, mark), daemon=True)
    # Ctrl-C reaches every process of a terminal; only this one acts on it and ends the
    # others with SIGTERM. A signal ignored here stays ignored in the child.
    with handled(("SIGINT",), signal.SIG_IGN, lambda before: True):
        process.start()
    theirs.close()
    return _Process(process, ours, mark)


def _end(workers: list[_Process]) -> None:
    """Terminate workers, with time for them to remove their half-written files."""
    for worker in workers:
        worker.process.terminate()
        worker.pipe.close()  # the next send fails, in a worker that ignores SIGTERM
    limit = time.monotonic() + WORKER_GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, limit - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.clean_up()  # on Windows, terminate() is no signal to be heard: it kills


def _work(pipe: Connection, args: argparse.Namespace, mark: str) -> None:
    """Run a worker: enhance files from the pipe until it closes."""
    mark_unfinished(mark)
    warnings.simplefilter("ignore")
    hush_compiler(args.quiet)
    last = 0.0

    def progress(done: float, total: float) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last > REDRAW_SECONDS:
            last = now
            pipe.send(("progress", done, total))

    with contextlib.suppress(Stopped, EOFError, ConnectionError), stoppable(), libraries_silenced():
        try:
            work = _worker(args)
        except Exception as error:
            pipe.send(("fatal", sentence(error)))
            return
        pipe.send(("ready",))
        while True:
            job = pipe.recv()
            try:
                report = work(job, progress)
            except Exception as error:
                origin = "".join(traceback.format_exception(error)) if args.verbose else ""
                pipe.send(("failed", sentence(error), origin))
            else:
                pipe.send(("done", report))

"""The report on one file, in a light module for the parent of worker processes."""

from __future__ import annotations

from dataclasses import dataclass

#: Networks take voices with a lower peak for noise: not all of their features are normalised.
QUIET_DB = -60
QUIET = 10.0 ** (QUIET_DB / 20)
TOO_QUIET = f"so quiet that voices may be lost, below {QUIET_DB} dB of full scale"

#: A cumulative norm takes minutes and more to forget a sample this far beyond speech. Floats in the
#: scale of 16-bit integers are smaller.
LOUD = 1e5


@dataclass(frozen=True)
class FileReport:
    """Report on one enhanced file.

    Attributes
    ----------
    samples : int
        Frames, that is samples per channel, the same for input and output. (ADPCM, SDS and PAF of
        24 bits are coded in blocks, the last of which is filled up with zeros.)
    seconds : float
        `samples` in seconds of audio.
    channels, sample_rate : int
        The same for input and output.
    n_clipped : int
        Output samples beyond what their format can hold: full scale for integers and Opus, a
        thousand times that for Vorbis and MP3.
    n_nonfinite : int
        Input samples that were NaN or infinite and were replaced by zero.
    wall_seconds : float
        Time from the first sample on, including reading and writing but not compiling.
    compile_seconds : float
        Time spent compiling kernels and loading kernels, model and libraries, mostly on the first
        file of a process.
    peak : float
        Largest magnitude of an input sample; full scale is 1.
    tags_left_out : tuple of str
        Tags of the input that the container of the output cannot hold, including time code and
        markers (`bext`, `cue`, ...).
    """

    samples: int
    seconds: float
    channels: int
    sample_rate: int
    n_clipped: int
    n_nonfinite: int
    wall_seconds: float
    compile_seconds: float = 0.0
    peak: float = 0.0
    tags_left_out: tuple[str, ...] = ()

    @property
    def rtf(self) -> float:
        """Real-time factor: processing time per second of audio."""
        return self.wall_seconds / self.seconds if self.seconds else 0.0

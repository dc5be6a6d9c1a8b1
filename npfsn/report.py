"""What was done to one file: light, for a process that only hears of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileReport:
    """What was done to one file.

    Attributes
    ----------
    samples : int
        Frames, that is samples per channel: of the input, and as many of the output. (ADPCM comes
        in blocks, of which the last one is filled up with zeros.)
    seconds : float
        The same in seconds of audio.
    channels, sample_rate : int
        Of input and output.
    n_clipped : int
        Output samples beyond full scale that an integer format could not hold.
    n_nonfinite : int
        Input samples that were NaN or infinite and were replaced by zero.
    wall_seconds : float
        Time taken from the first sample on, reading and writing included, compiling not.
    compile_seconds : float
        Time spent compiling kernels, and loading them, the model and libraries: most of it with
        the first file of a process.
    peak : float
        Largest input sample, of full scale.
    tags_left_out : tuple of str
        Tags of the input that the container of the output cannot hold, time code and markers
        (`bext`, `cue`, ...) included.
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
        """Real-time factor: time taken by second of audio."""
        return self.wall_seconds / self.seconds if self.seconds else 0.0

"""Sound files: what goes in comes back with the same shape, in time, complete or not at all.

Most tests run a stream that does nothing but wait, so that every difference between input and
output is the fault of the file handling.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from pure_delay import Delay, load_model, modules
from scipy.signal import resample_poly

from npfsn import audio, chunks, mp3, weights
from npfsn.aligned import AlignedStream
from npfsn.audio import enhance_file
from npfsn.config import MAX_RATE, MIN_RATE
from npfsn.errors import AudioError, NormError
from npfsn.resample import Resampler, resample
from npfsn.samples import silence_nonfinite, to_steps

posix = pytest.mark.skipif(os.name != "posix", reason="links and names are POSIX's")

RATES = (8000, 11025, 16000, 22050, 44100, 48000, 96000)
LENGTHS = (0, 1, 255, 256, 257, 1009, 20011)


@pytest.fixture
def delay(monkeypatch):
    """Make `enhance_file` use `Delay`, and the identity where the whole signal is needed."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(weights, "load_model", load_model)


def noise(n, channels=1, seed=0, scale=0.1):
    return (np.random.default_rng([seed, n]).standard_normal((n, channels)) * scale).astype("f4")


def write(path, x, rate=16000, subtype="PCM_16", container=None):
    with sf.SoundFile(path, "w", rate, x.shape[1], subtype, None, container) as file:
        file.write(x)
    return path


def read(path):
    with sf.SoundFile(path) as file:
        shape = (file.samplerate, file.channels, file.format, file.subtype)
        return file.read(dtype="float64", always_2d=True), shape


# --- change of sample rate ---------------------------------------------------------------------


@pytest.mark.parametrize("rate_out", [16000, 24000, 48000])
@pytest.mark.parametrize("rate_in", [*RATES, 15999])
def test_resampling_is_resample_poly(rate_in, rate_out):
    for n in (1, 2, 257, 5003):
        x = noise(n)[:, 0]
        gcd = np.gcd(rate_in, rate_out)
        expected = resample_poly(x.astype("f8"), rate_out // gcd, rate_in // gcd)
        found = resample(x, rate_in, rate_out)
        assert found.dtype == np.float32
        assert found.size == expected.size == -(-n * rate_out // rate_in)
        np.testing.assert_allclose(found, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("block", [1, 37, 256, 1000, 4999])
@pytest.mark.parametrize(
    "rates",
    [(44100, 16000), (16000, 44100), (8000, 48000), (96000, 24000), (15999, 16000), (16000, 44099)],
)
def test_resampling_does_not_depend_on_blocks(rates, block):
    x = noise(5003)[:, 0]
    resampler = Resampler(*rates)
    for _ in range(2):  # flush makes it ready for another signal
        parts = [resampler.process(x[i : i + block]) for i in range(0, x.size, block)]
        assert np.array_equal(np.concatenate([*parts, resampler.flush()]), resample(x, *rates))


def test_equal_rates_touch_nothing():
    x = noise(1000)[:, 0]
    resampler = Resampler(16000, 16000)
    assert resampler.process(x) is x
    assert resampler.flush().size == 0
    assert resample(x, 44100, 44100) is x


def test_resampling_keeps_little():
    resampler = Resampler(44100, 16000)
    for _ in range(50):
        resampler.process(noise(10_000)[:, 0])
    assert resampler._kept.size < 2_000


def test_resampling_survives_the_largest_floats():
    x = np.full(1000, np.finfo(np.float32).max, np.float32) * np.tile([1, -1], 500).astype("f4")
    assert np.isfinite(resample(x, 8000, 48000)).all()


@pytest.mark.parametrize("rate", [0, -1, MIN_RATE - 1, MAX_RATE + 1, 2**31 - 1, 16000.5])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(AudioError, match="cannot be resampled"):
        Resampler(rate, 16000)


def test_high_rates_must_share_a_factor():
    """A header may say any rate: the filter of 767,999 Hz took seconds for every block."""
    for rates in ((767_999, 16_000), (16_000, 767_999), (200_001, 16_000)):
        with pytest.raises(AudioError, match="common factor"):
            Resampler(*rates)
    for rate in (384_000, 768_000, 199_999):
        Resampler(rate, 16_000)


def test_resamplers_share_their_filter():
    """A header of 60 bytes may promise a thousand channels, at a rate whose filter is large."""
    first, second = Resampler(15999, 16000), Resampler(15999, 16000)
    for resampler in (first, second):
        resampler.process(noise(100)[:, 0])
    assert first._filter is second._filter
    kept = weakref.ref(first._filter)
    del first, second, resampler
    assert kept() is None


def test_a_long_filter_is_laid_out_once():
    """Not for every block: at 44,099 Hz one took longer than it lasted."""
    resampler, x = Resampler(44099, 16000), noise(441)[:, 0]
    assert resampler._filter._taps.nbytes > 6 << 20
    resampler.process(x)
    tracemalloc.start()
    resampler.process(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_channels_are_resampled_one_by_one():
    x = noise(3000, 3)
    found = resample(x, 48000, 16000)
    for c in range(3):
        assert np.array_equal(found[:, c], resample(x[:, c], 48000, 16000))


# --- shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("rate", RATES)
def test_rate_channels_and_length_are_kept(delay, tmp_path, rate, n, channels):
    src = write(tmp_path / "a.wav", noise(n, channels), rate)
    report = enhance_file(src, tmp_path / "b.wav")
    y, shape = read(tmp_path / "b.wav")
    assert y.shape == (n, channels)
    assert shape == (rate, channels, "WAV", "PCM_16")
    assert (report.samples, report.channels, report.sample_rate) == (n, channels, rate)
    assert report.seconds == n / rate
    assert report.n_clipped == report.n_nonfinite == 0


SUBTYPES = [
    (container, subtype)
    for container, subtypes in {
        "WAV": "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE",
        "WAVEX": "PCM_16 FLOAT",
        "RF64": "PCM_16 PCM_24",
        "W64": "PCM_16 FLOAT",
        "AIFF": "PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE",
        "AU": "PCM_16 PCM_32 FLOAT",
        "CAF": "PCM_16 PCM_24 FLOAT ALAC_16 ALAC_24",
        "FLAC": "PCM_S8 PCM_16 PCM_24",
        "NIST": "PCM_16",
    }.items()
    for subtype in subtypes.split()
    if container in sf.available_formats() and sf.check_format(container, subtype)
]


@pytest.mark.parametrize(("container", "subtype"), SUBTYPES)
def test_the_identity_gives_every_bit_back(delay, tmp_path, container, subtype):
    x = noise(10_000, 2, scale=0.3)
    if subtype == "DOUBLE":
        x = x.astype("f8")  # the engine's floats: no more than float32 is promised
    src = write(tmp_path / "a.audio", x, container=container, subtype=subtype)
    enhance_file(src, tmp_path / "b.audio")
    before, shape = read(src)
    after, same = read(tmp_path / "b.audio")
    assert same == shape == (16000, 2, container, subtype)
    if subtype == "PCM_32":  # float32 has 24 bits
        np.testing.assert_allclose(after, before, atol=2.0**-24, rtol=0)
    else:
        assert np.array_equal(after, before)


def test_byte_order_is_kept(delay, tmp_path):
    with sf.SoundFile(tmp_path / "a.wav", "w", 16000, 1, "PCM_16", "BIG") as file:
        file.write(noise(1000))
    enhance_file(tmp_path / "a.wav", tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFX"
    assert (tmp_path / "b.wav").read_bytes()[:4] == b"RIFX"


INTEGERS = [(c, s) for c, s in SUBTYPES if s.startswith(("PCM", "ALAC")) and s != "PCM_32"]


@pytest.mark.parametrize(("container", "subtype"), INTEGERS)
def test_every_depth_is_rounded_to_the_nearest_of_its_steps(
    delay, tmp_path, monkeypatch, container, subtype
):
    """Left to libsndfile, 8 bits would be cut off: half a step of offset."""
    give = Delay._give
    monkeypatch.setattr(Delay, "_give", lambda self, n: np.float32(0.7) * give(self, n))
    src = write(tmp_path / "a.x", noise(2000), container=container, subtype=subtype)
    enhance_file(src, tmp_path / "b.x")
    steps = 2.0 ** (int(subtype.split("_")[-1].lstrip("SU")) - 1)
    expected = np.rint(np.float32(0.7) * read(src)[0].astype("f4") * steps) / steps
    assert np.array_equal(read(tmp_path / "b.x")[0], expected)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_companded_codes_come_back(delay, tmp_path, subtype):
    """They stand for 16-bit samples: with 8 bits, what is soft would be lost."""
    src = write(tmp_path / "a.wav", noise(2000, scale=0.01), subtype=subtype)
    enhance_file(src, tmp_path / "b.wav")
    assert np.array_equal(read(tmp_path / "b.wav")[0], read(src)[0])


LOSSY = [
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("wav", "WAV", "ULAW"),
    ("wav", "WAV", "ALAW"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAV", "MS_ADPCM"),
    ("wav", "WAV", "GSM610"),
]


@pytest.mark.parametrize(("suffix", "container", "subtype"), LOSSY)
def test_lossy_formats_come_back_aligned(delay, tmp_path, suffix, container, subtype):
    if container not in sf.available_formats():
        pytest.skip(f"this libsndfile has no {container}")
    if subtype not in sf.available_subtypes(container):
        pytest.skip(f"this libsndfile has no {subtype}")
    rate = 8000 if subtype == "GSM610" else 16000
    tone = np.sin(2 * np.pi * 300 * np.arange(rate * 2) / rate) * np.hanning(rate * 2)
    x = (tone[:, None] * 0.5 + noise(rate * 2, scale=0.02)).astype("f4")
    src = write(tmp_path / f"a.{suffix}", x, rate, subtype, container)
    dst = tmp_path / f"b.{suffix}"
    enhance_file(src, dst)
    with sf.SoundFile(src) as a, sf.SoundFile(dst) as b:
        assert (a.samplerate, a.format, a.subtype) == (b.samplerate, b.format, b.subtype)
        assert a.frames == b.frames
        before, after = a.read(a.frames), b.read(b.frames)
    assert lag(before, after) == 0
    assert np.std(after - before) < 0.2 * np.std(before)


def lag(x, y):
    """Where the cross-correlation of two signals peaks."""
    n = 1 << int(2 * x.size - 1).bit_length()
    corr = np.fft.irfft(np.fft.rfft(y, n) * np.conj(np.fft.rfft(x, n)), n)
    peak = int(np.argmax(corr))
    return peak if peak < n // 2 else peak - n


@pytest.mark.parametrize("rate", RATES)
def test_output_is_aligned_with_the_input(delay, tmp_path, rate):
    # Below the band edge of every rate, so that resampling is transparent.
    x = resample(noise(2000)[:, 0], 2000, rate)[:, None]
    src = write(tmp_path / "a.wav", x, rate, "FLOAT")
    enhance_file(src, tmp_path / "b.wav")
    y, _ = read(tmp_path / "b.wav")
    assert y.shape == x.shape
    assert lag(x[:, 0].astype("f8"), y[:, 0]) == 0
    inner = slice(rate // 50, -rate // 50)
    np.testing.assert_allclose(y[inner], x[inner], atol=2e-3)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_output_does_not_depend_on_the_blocks(delay, tmp_path, rate, monkeypatch):
    src = write(tmp_path / "a.wav", noise(30_011, 2), rate, "FLOAT")
    enhance_file(src, tmp_path / "whole.wav")
    expected, _ = read(tmp_path / "whole.wav")
    for size in (2 * 997, 2 * 8192):
        monkeypatch.setattr(audio, "BLOCK_SAMPLES", size)
        enhance_file(src, tmp_path / "b.wav", force=True)
        assert np.array_equal(read(tmp_path / "b.wav")[0], expected)


def test_channels_do_not_mix(delay, tmp_path):
    x = noise(5000, 3)
    x[:, 1] = 0
    enhance_file(write(tmp_path / "a.wav", x, 44100), tmp_path / "b.wav")
    y, _ = read(tmp_path / "b.wav")
    assert not y[:, 1].any() and y[:, 0].any() and y[:, 2].any()


@pytest.mark.parametrize("limit, n", [(700 * 100, 300), (600, 3)])
def test_many_channels_take_small_blocks(delay, tmp_path, monkeypatch, limit, n):
    """Memory is for samples of all channels; a block has a frame at least."""
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", limit)
    src = write(tmp_path / "a.wav", noise(n, 700))
    seen, frames = [], max(limit // 700, 1)
    report = enhance_file(src, tmp_path / "b.wav", progress=lambda *seconds: seen.append(seconds))
    assert report.channels == 700
    assert seen[0] == (frames / 16000, n / 16000) and len(seen) == n // frames


def test_the_peak_is_that_of_both_signs(delay, tmp_path):
    x = np.zeros((1000, 1))
    x[500] = -0.5
    report = enhance_file(write(tmp_path / "a.wav", x), tmp_path / "b.wav")
    assert report.peak == 0.5
    assert report.rtf == pytest.approx(report.wall_seconds / (1000 / 16000))


def test_a_whole_signal_that_does_not_fit_is_told(delay, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(audio, "_run_whole", fail)
    src = write(tmp_path / "a.wav", noise(2_000))
    with pytest.raises(AudioError, match="the whole signal at once, 0.0 GB and more; choose"):
        enhance_file(src, tmp_path / "b.wav", norm="offline_laplace_norm")
    assert not (tmp_path / "b.wav").exists()


def test_an_offline_norm_takes_the_whole_signal(delay, tmp_path):
    x = noise(70_001, 2)
    src = write(tmp_path / "a.wav", x, 44100, "FLOAT")
    seen = []
    report = enhance_file(
        src,
        tmp_path / "b.wav",
        norm="offline_laplace_norm",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert np.array_equal(read(tmp_path / "b.wav")[0], x)
    assert report.samples == 70_001
    assert seen[-1] == (70_001 / 44100, 70_001 / 44100)


def test_another_suffix_names_another_container(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000), 44100, "PCM_24")
    for name, expected in {
        "b.flac": ("FLAC", "PCM_24"),
        "b.aiff": ("AIFF", "PCM_24"),
        "b.ogg": ("OGG", "VORBIS"),
        "B.WAV": ("WAV", "PCM_24"),
    }.items():
        enhance_file(src, tmp_path / name)
        assert read(tmp_path / name)[1][2:] == expected
    floats = write(tmp_path / "f.wav", noise(1000), subtype="FLOAT")
    enhance_file(floats, tmp_path / "f.flac")
    assert read(tmp_path / "f.flac")[1][2:] == ("FLAC", "PCM_24")
    with pytest.raises(AudioError, match="cannot tell the format"):
        enhance_file(src, tmp_path / "b.txt")


def test_a_name_that_ends_in_opus_means_opus(delay, tmp_path):
    """The container is Ogg's, whose own default is Vorbis."""
    if not sf.check_format("OGG", "OPUS"):
        pytest.skip("this libsndfile has no Opus")
    for name in ("a.wav", "a.ogg"):
        sf.write(tmp_path / name, noise(1000), 48000)
        enhance_file(tmp_path / name, tmp_path / "b.opus", force=True)
        assert read(tmp_path / "b.opus")[1][2:] == ("OGG", "OPUS")


@pytest.mark.parametrize("name", ["b.mp1", "b.mp2"])
def test_what_is_written_is_called_what_it_is(delay, tmp_path, name):
    """There is an encoder for the third layer only."""
    with pytest.raises(AudioError, match="cannot tell the format"):
        enhance_file(write(tmp_path / "a.wav", noise(1000)), tmp_path / name)


def tagged(path, tags):
    with sf.SoundFile(path, "w", 16000, 1) as file:
        for name, text in tags.items():
            setattr(file, name, text)
        file.write(noise(1000))
    return path


def tags(path):
    with sf.SoundFile(path) as file:
        assert file.frames >= 1000
        return file.copy_metadata()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "caf", "aiff"])
def test_tags_are_kept(delay, tmp_path, suffix):
    given = {"title": "Grüße", "artist": "Someone", "comment": "first take"}
    src = tagged(tmp_path / f"a.{suffix}", given)
    enhance_file(src, tmp_path / f"b.{suffix}")
    enhance_file(tmp_path / f"b.{suffix}", tmp_path / "c.flac")
    assert tags(tmp_path / f"b.{suffix}") == tags(tmp_path / "c.flac") == given


def test_tags_that_would_do_harm_are_left_out(delay, tmp_path):
    """AIFF fails with 16 KB of them; MP3 would get UTF-8 where it says Latin; none is a program."""
    names = ("title", "copyright", "artist", "comment", "date", "album", "license", "genre")
    long = {name: name[0] * 1024 for name in names}
    src = tagged(tmp_path / "a.flac", {**long, "tracknumber": "x" * 1025, "software": "a recorder"})
    for suffix in ("flac", "ogg", "aiff", "wav", "w64", "opus"):
        enhance_file(src, tmp_path / f"b.{suffix}")
        assert tags(tmp_path / f"b.{suffix}").items() <= long.items()
    assert tags(tmp_path / "b.flac") == long
    enhance_file(tagged(tmp_path / "c.flac", {"title": "Grüße", "album": "x"}), tmp_path / "c.mp3")
    found = tags(tmp_path / "c.mp3")
    assert found["album"] == "x" and not found.get("title")


def test_tags_that_nobody_can_read_are_left_out(delay, tmp_path):
    src = tagged(tmp_path / "a.wav", {"title": "GrXXe", "artist": "Someone"})
    src.write_bytes(src.read_bytes().replace(b"GrXXe", b"Gr\xfc\xdfe"))  # Latin-1
    enhance_file(src, tmp_path / "b.wav")
    assert tags(tmp_path / "b.wav") == {"artist": "Someone"}


# --- level -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_quantising_rounds_and_counts(bits):
    step = 2.0 ** (1 - bits)
    y = np.array([0.0, 0.4, 0.6, -0.4, -0.6], np.float64) * step
    found, n_clipped = to_steps(y, bits)
    assert n_clipped == 0
    assert [int(v) >> (32 - bits) for v in found] == [0, 0, 1, 0, -1]
    found, n_clipped = to_steps(np.array([-1.0, 1.0, 1.5, -1.5, 3e38]), bits)
    assert n_clipped == 4
    top = 2 ** (bits - 1) - 1
    assert [int(v) >> (32 - bits) for v in found] == [-top - 1, top, top, -top - 1, top]
    _, n_clipped = to_steps(np.array([top, -top - 1]) * step, bits)
    assert n_clipped == 0  # a recording at full scale is no reason to warn


def test_clipping_is_counted_not_hidden(tmp_path, delay, monkeypatch):
    monkeypatch.setattr(Delay, "flush", lambda self: 4 * Delay._give(self, 768))
    x = np.full((256, 2), 0.5, np.float32)
    x[10, 0] = 0.1
    report = enhance_file(write(tmp_path / "a.wav", x), tmp_path / "b.wav")
    y, _ = read(tmp_path / "b.wav")
    assert report.n_clipped == 511
    assert y.max() == 32767 / 32768
    floats = write(tmp_path / "f.wav", x, subtype="FLOAT")
    assert enhance_file(floats, tmp_path / "g.wav").n_clipped == 0
    assert read(tmp_path / "g.wav")[0].max() == 2.0


def test_level_is_kept_beyond_full_scale(delay, tmp_path):
    x = noise(3000, scale=20.0)
    enhance_file(write(tmp_path / "a.wav", x, subtype="FLOAT"), tmp_path / "b.wav")
    assert np.array_equal(read(tmp_path / "b.wav")[0], x)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_nonfinite_samples_are_silenced_and_counted(delay, tmp_path, rate):
    x = noise(40_000, 2)
    clean = x.copy()
    for index, value in ((3, np.nan), (20_000, np.inf), (39_999, -np.inf)):
        x[index, index % 2] = value
        clean[index, index % 2] = 0.0
    report = enhance_file(write(tmp_path / "a.wav", x, rate, "FLOAT"), tmp_path / "b.wav")
    enhance_file(write(tmp_path / "c.wav", clean, rate, "FLOAT"), tmp_path / "d.wav")
    assert report.n_nonfinite == 3
    assert np.array_equal(read(tmp_path / "b.wav")[0], read(tmp_path / "d.wav")[0])


def test_silencing_leaves_finite_samples_alone():
    x = np.array([3e38, 3e38, -3e38, 1e-45], np.float32)
    assert silence_nonfinite(x) == 0
    assert x.tolist() == np.array([3e38, 3e38, -3e38, 1e-45], np.float32).tolist()


# --- files that cannot be read -----------------------------------------------------------------


def refuse(src, dst, match):
    """Check that a file is refused in one sentence and that nothing is left behind."""
    before = sorted(os.listdir(dst.parent))
    with pytest.raises(AudioError, match=match) as caught:
        enhance_file(src, dst)
    assert "\n" not in str(caught.value) and "Path(" not in str(caught.value)
    assert sorted(os.listdir(dst.parent)) == before


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.wav", b"", "0 bytes"),
        ("text.wav", b"Hello, this is no audio.\n" * 50, "cannot read .* as audio"),
        ("noise.flac", bytes(range(256)) * 30, "cannot read .* as audio"),
        ("half.wav", b"RIFF\x24\x00", "cannot read .* as audio"),
        ("headerless.raw", b"\0" * 3200, "cannot read .* as audio.*npfsn stream"),
        ("page.mp3", b"<html>404</html>", r"cannot read .* as audio \(nothing that decodes\)"),
        ("x.npz", b"PK\x03\x04" + b"\0" * 300, "cannot read .* as audio"),
    ],
)
def test_what_is_no_audio_is_refused(delay, tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    refuse(tmp_path / name, tmp_path / f"out_{name}", match)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.ogg", "a.flac", "a.mp3"])
def test_a_file_without_a_sample(delay, tmp_path, name):
    """FLAC and MP3 cannot hold that: the format was blamed."""
    src = write(tmp_path / "empty.wav", np.zeros((0, 1)))
    if name in ("a.flac", "a.mp3"):
        refuse(src, tmp_path / name, "there is no sound in the input.*--format wav")
    else:
        assert enhance_file(src, tmp_path / name).samples == len(read(tmp_path / name)[0]) == 0


@posix
def test_missing_files_folders_and_pipes_are_refused(delay, tmp_path):
    refuse(tmp_path / "no.wav", tmp_path / "b.wav", "No such file")
    (tmp_path / "folder.wav").mkdir()
    refuse(tmp_path / "folder.wav", tmp_path / "b.wav", "is a folder")
    with pytest.raises(AudioError, match="cannot read"):
        enhance_file(tmp_path / "nul\0l.wav", tmp_path / "b.wav")
    for wrong in ("", None, 3, b""):
        with pytest.raises(TypeError, match="src is .*: expected the path"):
            enhance_file(wrong, "b.wav")
        with pytest.raises(TypeError, match="dst is .*: expected the path"):
            enhance_file("a.wav", wrong)
    write(tmp_path / "a.wav", noise(1000), 16000)
    with pytest.raises(AudioError, match="cannot write"):
        enhance_file(tmp_path / "a.wav", tmp_path / "nul\0l.wav")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        refuse(tmp_path / "pipe.wav", tmp_path / "b.wav", "npfsn stream")
        with pytest.raises(AudioError, match=r"cannot write .*pipe.wav: it is a pipe"):
            enhance_file(tmp_path / "a.wav", tmp_path / "pipe.wav", force=True)
        assert (tmp_path / "pipe.wav").is_fifo()


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("MP3", "MPEG_LAYER_III"),
        ("OGG", "VORBIS"),
        ("NIST", "PCM_16"),
        ("SVX", "PCM_16"),
        ("VOC", "PCM_16"),
        ("AVR", "PCM_16"),
    ],
)
def test_truncated_files_are_refused(delay, tmp_path, container, subtype):
    if container not in sf.available_formats():
        pytest.skip(f"this libsndfile has no {container}")
    src = write(tmp_path / "a.x", noise(20_000), subtype=subtype, container=container)
    content = src.read_bytes()
    src.write_bytes(content[: len(content) // 2])
    refuse(src, tmp_path / "b.x", "cut short|damaged")
    src.write_bytes(content)
    audio.enhance_file(src, tmp_path / f"b.{container.lower()}", delay)


# Where a header counts the bytes of the sound: so far behind a name, and how it is written.
COUNTS = {
    "WAV": (b"data", 4, "<I"),
    "AIFF": (b"SSND", 4, ">I"),
    "SVX": (b"BODY", 4, ">I"),
    "AU": (b".snd", 8, ">I"),
    "CAF": (b"data", 4, ">Q"),
    "RF64": (b"ds64", 16, "<Q"),
    "W64": (b"data", 16, "<Q"),
}


@pytest.mark.parametrize("container, whole", [*((name, True) for name in COUNTS), ("WAV", False)])
def test_samples_that_a_header_does_not_count_are_not_lost(delay, tmp_path, container, whole):
    """A recorder that was stopped; more than 4 GiB, which wrapped. Some know the whole size."""
    src = write(tmp_path / "a.x", noise(20_000), subtype="PCM_16", container=container)
    content = bytearray(src.read_bytes())
    name, behind, layout = COUNTS[container]
    at = content.index(name) + behind
    (size,) = struct.unpack_from(layout, content, at)
    assert 40_000 <= size < 40_100
    for missing in (39_000, 2_000):
        struct.pack_into(layout, content, at, size - missing)
        if not whole:
            struct.pack_into(layout, content, 4, at + size - missing - 4)
        src.write_bytes(content)
        refuse(src, tmp_path / "b.x", "holds more sound than its header counts")


@pytest.mark.parametrize("container", COUNTS)
def test_damaged_sizes_of_chunks_end_somewhere(container):
    """Whatever they say: each chunk begins behind the one before."""
    stream = io.BytesIO()
    sf.write(stream, noise(500), 16000, format=container, subtype="PCM_16")
    content = stream.getvalue()
    for at in range(len(content) - 1_000):
        for value in (b"\0" * 8, b"\xff" * 8, b"\7" + b"\0" * 7):
            damaged = content[:at] + value + content[at + 8 :]
            assert 0 <= chunks.end(io.BytesIO(damaged), container, len(damaged)) <= len(damaged)


def test_a_chunk_behind_an_odd_one_without_its_padding(delay, tmp_path):
    """Some programs forget it; the sound is all there."""
    src = write(tmp_path / "a.wav", noise(2001), subtype="PCM_U8")
    content = src.read_bytes()
    assert len(content) % 2 == 0  # with padding
    chunk = b"LIST" + struct.pack("<I", 4_000) + b"INFO" + b"\1" * 3_996
    for whole in (content, content[:-1]):
        src.write_bytes(whole + chunk)
        assert enhance_file(src, tmp_path / "b.wav", force=True).samples == 2001


def test_a_nist_header_that_counts_too_few(delay, tmp_path):
    src = write(tmp_path / "a.sph", noise(20_000), subtype="PCM_16", container="NIST")
    content = src.read_bytes()
    assert b"sample_count -i 20000" in content
    src.write_bytes(content.replace(b"sample_count -i 20000", b"sample_count -i 10000"))
    refuse(src, tmp_path / "b.sph", "holds more sound than its header counts")


@pytest.mark.parametrize("counted", [10, 60])
def test_an_mp3_table_that_counts_too_few(delay, tmp_path, counted):
    sf.write(tmp_path / "a.mp3", noise(48_000), 16000)
    content = bytearray((tmp_path / "a.mp3").read_bytes())
    at = next(content.index(name) for name in (b"Xing", b"Info") if name in content) + 8
    assert int.from_bytes(content[at : at + 4], "big") > 80
    content[at : at + 4] = counted.to_bytes(4, "big")
    (tmp_path / "a.mp3").write_bytes(content)
    refuse(tmp_path / "a.mp3", tmp_path / "b.mp3", "holds more sound than its header counts")


@pytest.mark.parametrize("container", COUNTS)
def test_what_follows_the_sound_is_no_damage(delay, tmp_path, container):
    """Tags, room that a recorder took for itself, a checksum without a name; chunks of a name."""
    order = ">I" if container in ("AIFF", "SVX") else "<I"
    chunk = b"LIST" + struct.pack(order, 40_000) + b"INFO" + bytes(range(1, 251)) * 160
    trailers = [b"TAG" + bytes(125), bytes(40_000), b"ID3" + bytes(range(256)) * 8, b"\xff" * 500]
    trailers += [chunk[:40_008]] if container in ("WAV", "AIFF", "SVX", "RF64") else []
    for trailer in trailers:
        src = write(tmp_path / "a.x", noise(2_000), subtype="PCM_16", container=container)
        with src.open("ab") as file:
            file.write(trailer)
        enhance_file(src, tmp_path / "b.wav", delay, force=True)


def test_an_ogg_file_cut_between_two_pages_is_refused(delay, tmp_path):
    """All of its pages are whole, but the last does not say that it is the last."""
    src = write(tmp_path / "a.ogg", noise(50_000), subtype="VORBIS", container="OGG")
    content = src.read_bytes()
    src.write_bytes(content[: content.rfind(b"OggS")])
    refuse(src, tmp_path / "b.ogg", "cut short: its last page is missing")


def bit_changed(pages):
    page = bytearray(pages[len(pages) // 2])
    page[-20] ^= 1
    return [*pages[: len(pages) // 2], bytes(page), *pages[len(pages) // 2 + 1 :]]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize(
    "damage",
    [
        bit_changed,
        lambda pages: pages[: len(pages) // 2] + pages[len(pages) // 2 + 1 :],
        lambda pages: pages[: len(pages) // 2] + pages[len(pages) // 2 - 1 :],
        lambda pages: [*pages[:-2], pages[-2][:-9], pages[-1]],
    ],
    ids=["changed", "missing", "twice", "shorter"],
)
def test_a_damaged_page_of_an_ogg_file_is_no_silence(delay, tmp_path, subtype, damage):
    """It would be left out: a second is gone, what follows comes early, and none says so."""
    if subtype not in sf.available_subtypes("OGG"):
        pytest.skip(f"this libsndfile has no {subtype}")
    src = write(tmp_path / "a.ogg", noise(16_000 * 20), subtype=subtype, container="OGG")
    pages = [b"OggS" + page for page in src.read_bytes().split(b"OggS")[1:]]
    assert len(pages) > 8
    src.write_bytes(b"".join(damage(pages)))
    refuse(src, tmp_path / "b.ogg", "is damaged: a page of it is changed, missing or there twice")
    src.write_bytes(b"".join(pages) + b"TAG" + bytes(125))
    audio.enhance_file(src, tmp_path / "b.ogg", delay)


def test_a_length_off_by_the_header_is_no_damage(delay, tmp_path):
    """Some recorders count the header in."""
    src = write(tmp_path / "a.wav", noise(20_000))
    content = bytearray(src.read_bytes())
    content[40:44] = len(content).to_bytes(4, "little")
    src.write_bytes(content)
    assert enhance_file(src, tmp_path / "b.wav").samples == 20_000


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_length_unknown_to_its_writer_is_no_damage(delay, tmp_path, size):
    src = write(tmp_path / "a.wav", noise(20_000))
    content = bytearray(src.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    content[4:8] = (size - 36 if size < 0x80000000 else size).to_bytes(4, "little")
    src.write_bytes(content)
    assert enhance_file(src, tmp_path / "b.wav").samples == 20_000


def test_a_recording_that_was_never_closed_is_refused(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(20_000))
    content = bytearray(src.read_bytes())
    content[40:44] = bytes(4)
    src.write_bytes(content)
    refuse(src, tmp_path / "b.wav", "never closed")


@pytest.mark.parametrize("rate", [1, 999, 1_000_000, 2**31 - 1])
def test_absurd_sample_rates_are_refused(delay, tmp_path, rate):
    src = write(tmp_path / "a.wav", noise(1000))
    content = bytearray(src.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    src.write_bytes(content)
    refuse(src, tmp_path / "b.wav", "sample rate")


def test_damaged_files_are_refused_or_read(delay, tmp_path):
    """Bytes changed at random: a clear error or a whole output, nothing else."""
    rng = np.random.default_rng(5)
    for container, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        src = write(tmp_path / "a.x", noise(8000), subtype=subtype, container=container)
        content = np.frombuffer(src.read_bytes(), np.uint8)
        for _ in range(40):
            broken = content.copy()
            where = rng.integers(0, min(broken.size, 4000), rng.integers(1, 20))
            broken[where] = rng.integers(0, 256, where.size)
            src.write_bytes(broken.tobytes())
            try:
                report = enhance_file(src, tmp_path / "b.x", force=True)
            except AudioError as error:
                assert "\n" not in str(error)
            else:
                assert read(tmp_path / "b.x")[0].shape[0] >= report.samples
                os.unlink(tmp_path / "b.x")
            assert os.listdir(tmp_path) == ["a.x"]


# --- the output: complete or absent ------------------------------------------------------------


def test_nothing_is_overwritten_unasked(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    (tmp_path / "b.wav").write_text("precious")
    refuse(src, tmp_path / "b.wav", "exists")
    assert (tmp_path / "b.wav").read_text() == "precious"
    enhance_file(src, tmp_path / "b.wav", force=True)
    assert read(tmp_path / "b.wav")[0].shape == (1000, 1)
    (tmp_path / "dir.wav").mkdir()
    with pytest.raises(AudioError, match="folder of this name"):
        enhance_file(src, tmp_path / "dir.wav", force=True)


def test_an_output_that_appears_meanwhile_is_kept(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    with pytest.raises(AudioError, match="exists"):
        enhance_file(
            src, tmp_path / "b.wav", progress=lambda *_: (tmp_path / "b.wav").write_text("mine")
        )
    assert (tmp_path / "b.wav").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav"]


@posix
def test_what_is_there_is_kept_where_there_are_no_hard_links(delay, tmp_path, monkeypatch):
    """As on FAT and many network drives: files can be written, and none is replaced."""

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(src, tmp_path / "b.wav")
    with pytest.raises(AudioError, match="exists"):
        enhance_file(
            src, tmp_path / "c.wav", progress=lambda *_: (tmp_path / "c.wav").write_text("mine")
        )
    assert (tmp_path / "c.wav").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav", "c.wav"]


@posix
def test_the_disk_holds_the_content_before_the_name_and_then_the_name(delay, tmp_path, monkeypatch):
    """After a power cut the output is complete or absent, and after a report it is there."""
    src, dst, synced = write(tmp_path / "a.wav", noise(1000)), tmp_path / "b.wav", []

    def fsync(handle):
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), dst.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    enhance_file(src, dst)
    assert synced == [(False, False), (True, True)]


@posix
def test_the_source_is_never_the_output(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    content = src.read_bytes()
    os.link(src, tmp_path / "hard.wav")
    os.symlink(src, tmp_path / "soft.wav")
    for name in ("a.wav", "hard.wav", "soft.wav"):
        with pytest.raises(AudioError, match="is the input itself"):
            enhance_file(src, tmp_path / name, force=True)
    assert src.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "hard.wav", "soft.wav"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_half_written_output_goes(delay, tmp_path, error):
    src = write(tmp_path / "a.wav", noise(200_000))

    def stop(done, total):
        assert [name for name in os.listdir(tmp_path) if name.endswith(".part")]
        raise error

    with pytest.raises(error):
        enhance_file(src, tmp_path / "b.wav", progress=stop)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_folders_are_made_and_forbidden_ones_named(delay, tmp_path, monkeypatch):
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(src, tmp_path / "new" / "deep" / "b.wav")
    assert (tmp_path / "new" / "deep" / "b.wav").exists()
    (tmp_path / "file").write_text("no folder")
    # /proc and /sys have no space either, but that is not what is wrong there.
    monkeypatch.setattr(audio.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    with pytest.raises(AudioError, match="cannot write .*: .* is a file, not a folder"):
        enhance_file(src, tmp_path / "file" / "b.wav")
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(AudioError, match="Permission denied"):
            enhance_file(src, tmp_path / "locked" / "b.wav")


@posix
def test_an_input_deleted_meanwhile_does_no_harm(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(200_000))
    enhance_file(src, tmp_path / "b.wav", progress=lambda *_: src.unlink(missing_ok=True))
    assert os.listdir(tmp_path) == ["b.wav"]


def test_permissions_follow_the_umask(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(src, tmp_path / "b.wav")
    assert (tmp_path / "b.wav").stat().st_mode == src.stat().st_mode


@posix
@pytest.mark.parametrize(
    "name", ["with space.wav", "ünïcödé 🎤.wav", "-dash.wav", "a'\"b.wav", "new\nline.wav"]
)
def test_odd_names(delay, tmp_path, name):
    src = write(tmp_path / "a.wav", noise(1000))
    odd = tmp_path / name
    src.rename(odd)
    enhance_file(odd, tmp_path / f"out{name}")
    enhance_file(tmp_path / f"out{name}", tmp_path / ("x" * 251 + ".wav"))
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no Unicode exist on Linux")
def test_names_that_are_no_unicode(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    src.rename(odd)
    enhance_file(odd, tmp_path / os.fsdecode(b"\xff\xfe.wav"))
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("container, channels, mask", [("WAVEX", 6, 0x60F), ("RF64", 3, 0x7)])
def test_the_layout_of_channels_is_kept(delay, tmp_path, container, channels, mask):
    """Side loudspeakers came back as rear ones."""
    src = write(tmp_path / "a.wav", noise(1000, channels), container=container)
    content = bytearray(src.read_bytes())
    at = content.index(b"fmt ") + 8 + 20
    assert content[at : at + 4] != mask.to_bytes(4, "little")
    content[at : at + 4] = mask.to_bytes(4, "little")
    src.write_bytes(content)
    enhance_file(src, tmp_path / "b.wav")
    assert f"Channel Mask  : 0x{mask:X}" in sf.SoundFile(tmp_path / "b.wav").extra_info
    enhance_file(src, tmp_path / "b.flac")  # has none


def test_a_wav_that_holds_an_mp3(delay, tmp_path):
    """Libsndfile reads these and writes none."""
    sf.write(tmp_path / "a.mp3", noise(16000), 16000)
    sound = (tmp_path / "a.mp3").read_bytes()
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16000, 4000, 1, 0, 12, 1, 2, 288, 1, 1393)
    chunks = [(b"fmt ", form), (b"fact", struct.pack("<I", 16000)), (b"data", sound)]
    body = b"".join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    src = tmp_path / "a.wav"
    src.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    assert sf.info(src).subtype == "MPEG_LAYER_III"
    enhance_file(src, tmp_path / "b.wav")
    assert read(tmp_path / "b.wav")[1][2:] == ("WAV", "PCM_16")


def test_a_container_with_fewer_bits_gets_all_it_has(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000), subtype="PCM_32")
    enhance_file(src, tmp_path / "b.flac")
    assert read(tmp_path / "b.flac")[1][2:] == ("FLAC", "PCM_24")


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_S8", "ULAW", "PCM_16"])
def test_a_small_container_for_a_large_file(subtype):
    source = types.SimpleNamespace(
        format="W64", subtype=subtype, endian="FILE", frames=5 << 30, channels=1
    )
    with pytest.raises(AudioError, match="more than a (WAV|AIFF) file can hold"):
        audio._target_format(
            source, Path("a.w64"), Path("b.aiff" if subtype == "PCM_S8" else "b.wav")
        )


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("flac", "PCM_S8"), ("caf", "PCM_S8"), ("ogg", "VORBIS")]
)
def test_eight_bits_stay_eight_where_there_are_eight(delay, tmp_path, suffix, subtype):
    src = write(tmp_path / "a.wav", noise(1000), subtype="PCM_U8")
    enhance_file(src, tmp_path / f"b.{suffix}")
    assert sf.info(tmp_path / f"b.{suffix}").subtype == subtype


def test_the_filter_is_there_before_the_first_block(monkeypatch):
    """Designing it takes longer than a live stream has."""
    resampler = Resampler(48000, 16000)
    monkeypatch.setattr("scipy.signal.firwin", None)
    assert resampler.process(np.ones(768, np.float32)).size > 200


@pytest.mark.parametrize(
    "name", "a.ogg a.opus a.mp3 a.flac a.wav a.aiff a.svx a.au a.caf a.rf64 a.w64 a.voc".split()
)
def test_recordings_one_after_the_other_are_not_cut(delay, tmp_path, name):
    """Libsndfile reads the first of them and says nothing of the others, or reads nothing."""
    x = noise(48000, 1)
    options = {"format": audio.container_of(name[1:])}
    options["subtype"] = {"a.opus": "OPUS", "a.ogg": "VORBIS", "a.mp3": "MPEG_LAYER_III"}.get(
        name, "PCM_16"
    )
    parts = []
    for size in (20000, 48000):
        sf.write(tmp_path / name, x[:size], 16000, **options)
        parts.append((tmp_path / name).read_bytes())
        enhance_file(tmp_path / name, tmp_path / f"{size}-{name}")
    (tmp_path / name).write_bytes(b"".join(parts))
    with pytest.raises(AudioError, match="several recordings one after the other"):
        enhance_file(tmp_path / name, tmp_path / f"both-{name}")


def test_the_next_mp3_may_begin_with_a_tag(delay, tmp_path):
    sf.write(tmp_path / "a.mp3", noise(20000), 16000)
    second = tagged(
        tmp_path / "b.mp3", {"title": "The second recording of a long day"}
    ).read_bytes()
    assert second.startswith(b"ID3")
    (tmp_path / "c.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + second)
    refuse(tmp_path / "c.mp3", tmp_path / "d.mp3", "several recordings")


MODES = [{}, {"bitrate_mode": "CONSTANT"}, {"bitrate_mode": "VARIABLE"}]  # of MP3


def without_table(path, x, rate, mode, tag=b"", junk=b"", table=b""):
    """Write an MP3 whose first frame is sound, or a table that nobody reads; return a header."""
    sf.write(path, x, rate, **mode)
    data = path.read_bytes()
    frame = mp3._frame(data[:4])
    assert data[4 + frame.side : 8 + frame.side] in (b"Xing", b"Info")
    first = (data[:4] + bytes(32) + table).ljust(frame.size, b"\0") if table else b""
    path.write_bytes(tag + junk + first + data[frame.size :])
    return data[:4]


@pytest.mark.parametrize("rate", [48000, 16000, 11025])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"tag": b"ID3\4\0\0\0\0\1\2" + bytes(130)},
        {"junk": b"\xff\xfb" * 100},
        {"table": b"VBRI" + bytes(20)},
    ],
)
def test_an_mp3_that_does_not_say_how_long_it_is(delay, tmp_path, rate, mode, channels, others):
    """Left to itself libsndfile guesses, and most of a recording that begins softly is gone."""
    x = noise(3 * rate, channels, scale=0.02)
    x[: rate // 2] *= 1e-4
    x[-rate:] *= 1e-4
    src = tmp_path / "a.mp3"
    sf.write(src, x, rate, **mode)
    whole = read(src)[0]
    header = without_table(src, x, rate, mode, **others)
    report = enhance_file(src, tmp_path / "b.wav", atten_lim_db=0)  # all of the input
    got, late = read(tmp_path / "b.wav")[0], 576 + 529  # of encoder and decoder, told by the table
    assert report.samples == len(got) and len(whole) + late <= len(got) < len(whole) + late + 1200
    assert np.abs(got[late : late + len(whole)] - whole).max() < 2.0**-14
    # What lies behind the last whole frame is nothing to lose: tags, or a part of a frame.
    for rest in (b"TAG" + bytes(125), header + bytes(20)):
        (tmp_path / "c.mp3").write_bytes(src.read_bytes() + rest)
        enhance_file(tmp_path / "c.mp3", tmp_path / "c.wav", force=True)
        assert len(read(tmp_path / "c.wav")[0]) == len(got)


def test_nothing_behind_a_hole_of_an_mp3_is_lost(delay, tmp_path):
    """All frames are counted, also those behind tags, or what is none: then decoders give up."""
    src = tmp_path / "a.mp3"
    sf.write(src, noise(48000), 16000)
    data = src.read_bytes()
    sound = data[mp3._frame(data[:4]).size :]
    size = mp3._frame(sound[:4]).size
    middle = len(sound) // 2 // size * size
    src.write_bytes(sound)
    samples = enhance_file(src, tmp_path / "b.wav").samples
    src.write_bytes(sound + b"TAG" + bytes(125) + sound)
    assert enhance_file(src, tmp_path / "c.wav").samples == 2 * samples
    src.write_bytes(sound + b"APETAGEX" + np.random.default_rng(0).bytes(200_000))
    assert enhance_file(src, tmp_path / "d.wav").samples == samples
    for hole in (bytes(6_000), b"\x55" * 200_000):
        src.write_bytes(sound[:middle] + hole + sound[middle:])
        refuse(src, tmp_path / "e.wav", "damaged|cut short")


def test_bytes_that_are_hardly_an_mp3(tmp_path):
    sf.write(tmp_path / "a.mp3", noise(20000), 16000)
    data = (tmp_path / "a.mp3").read_bytes()
    frame = mp3._frame(data[:4])
    vbri = (data[:4] + bytes(32) + b"VBRI").ljust(frame.size, b"\0")
    for whole in (data[frame.size :], vbri + data[frame.size :], b"ID3" + bytes(7) + data):
        for size in [*range(80), *range(frame.size - 10, frame.size + 50), len(whole) - 1]:
            file = io.BytesIO(whole[:size])
            mp3.counted(file)
            mp3.is_followed(file)
    lone = data[:4] + bytes(40)  # nothing where the next one should be
    started = time.perf_counter()
    assert mp3.counted(io.BytesIO(100_000 * lone)) is None
    view = mp3.counted(io.BytesIO(20_000 * (2 * data[frame.size : 2 * frame.size] + b"\0")))
    assert view is not None and time.perf_counter() - started < 30.0  # a second


@pytest.mark.parametrize("error", [BrokenPipeError(), FileExistsError(), OSError(errno.EIO, "x")])
def test_errors_of_the_progress_are_not_those_of_the_output(delay, tmp_path, error):
    def progress(done, total):
        raise error

    src, open_before = write(tmp_path / "a.wav", noise(1000)), open_files()
    with pytest.raises(OSError) as caught:
        enhance_file(src, tmp_path / "b.wav", progress=progress)
    assert caught.value is error
    assert open_files() == open_before  # though the traceback keeps everything alive
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def open_files():
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0


def test_wrong_options_are_told_whatever_the_file(tmp_path):
    """An empty one, too, and before a long one is read for an offline norm."""
    src = write(tmp_path / "a.wav", noise(0))
    with pytest.raises(NormError, match="unknown norm"):
        enhance_file(src, tmp_path / "b.wav", norm="nonsense")
    with pytest.raises(ValueError, match="unknown precision"):
        enhance_file(src, tmp_path / "b.wav", norm="offline_laplace_norm", precision="int9")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_compiling_is_no_enhancing(delay, tmp_path, monkeypatch):
    """What is compiled between blocks, as happens with offline norms, counts as compiling."""
    so_far = iter([1.0, 6.0])
    monkeypatch.setattr("npfsn.jit.seconds_compiling", lambda: next(so_far))
    report = enhance_file(write(tmp_path / "a.wav", noise(1000)), tmp_path / "b.wav")
    assert report.compile_seconds > 4.5 and report.wall_seconds < 0.5


def test_a_folder_that_cannot_be_synced_holds_its_files(delay, tmp_path, monkeypatch):
    """It need not be readable, and some file systems sync none."""
    really = {name: getattr(os, name) for name in ("open", "fsync")}
    refused = []

    def refuse_to(name, is_folder):
        def refuse_folders(what, *rest):
            if is_folder(what):
                refused.append(name)
                raise PermissionError(errno.EACCES, "no")
            return really[name](what, *rest)

        return refuse_folders

    src = write(tmp_path / "a.wav", noise(1000))
    for name, is_folder in {
        "open": os.path.isdir,
        "fsync": lambda handle: stat.S_ISDIR(os.fstat(handle).st_mode),
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"npfsn.output.os.{name}", refuse_to(name, is_folder))
            enhance_file(src, tmp_path / f"{name}.wav")
        assert refused.pop() == name and (tmp_path / f"{name}.wav").exists()


def test_a_tag_behind_an_mp3_is_no_recording(delay, tmp_path):
    sf.write(tmp_path / "a.mp3", noise(20000, 1), 16000)
    with open(tmp_path / "a.mp3", "ab") as file:
        file.write(b"TAG" + bytes(125))
    assert enhance_file(tmp_path / "a.mp3", tmp_path / "b.mp3").samples == 20000


def test_flac_of_unknown_length(delay, tmp_path):
    sf.write(tmp_path / "a.flac", noise(20000, 1), 16000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # the length's 36 bits, in the block that comes first
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(AudioError, match="does not say how long it is"):
        enhance_file(tmp_path / "a.flac", tmp_path / "b.flac")


def test_files_too_large_for_their_container_are_refused_at_once(delay, tmp_path, monkeypatch):
    src = write(tmp_path / "a.w64", noise(1000), subtype="DOUBLE", container="W64")
    monkeypatch.setattr(audio, "_SAMPLE_BYTES", {"DOUBLE": 1 << 31})  # as if it were that long
    with pytest.raises(AudioError, match="more than a WAV file can hold; choose --format w64"):
        enhance_file(src, tmp_path / "b.wav")
    enhance_file(src, tmp_path / "b.rf64")


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS")]
)
def test_an_mp3_becomes_anything(delay, tmp_path, suffix, subtype):
    """A WAV may hold MPEG samples, says libsndfile, and cannot write them."""
    sf.write(tmp_path / "a.mp3", noise(20000, 1), 16000)
    assert enhance_file(tmp_path / "a.mp3", tmp_path / f"b.{suffix}").samples == 20000
    found = sf.info(tmp_path / f"b.{suffix}")
    assert (found.subtype, found.frames) == (subtype, 20000)


@pytest.mark.parametrize("suffix", ["flac", "mp3", "opus"])
def test_nothing_becomes_no_broken_file(delay, tmp_path, suffix):
    write(tmp_path / "a.wav", noise(0))
    with pytest.raises(AudioError, match="cannot write"):
        enhance_file(tmp_path / "a.wav", tmp_path / f"b.{suffix}")
    assert not (tmp_path / f"b.{suffix}").exists()
    enhance_file(tmp_path / "a.wav", tmp_path / "b.wav")


def test_read_only_containers_name_a_way_out(delay, tmp_path):
    src = tmp_path / "a.sd2"
    if "SD2" not in sf.available_formats():
        pytest.skip("this libsndfile has no SD2")
    write(src, noise(1000), container="SD2")
    with pytest.raises(AudioError, match="--format wav"):
        enhance_file(src, tmp_path / "b.sd2")
    enhance_file(src, tmp_path / "b.wav")


@pytest.fixture
def tiny_disk(tmp_path):
    """Mount a file system of 128 KiB, where that is allowed."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("AIFF", "FLOAT"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
        ("CAF", "ALAC_16"),
    ],
)
def test_a_full_disk_leaves_nothing(delay, tmp_path, tiny_disk, container, subtype):
    if container not in sf.available_formats():
        pytest.skip(f"this libsndfile has no {container}")
    x = noise(1_000_000)
    src = write(tmp_path / "a.x", x, subtype=subtype, container=container)
    with pytest.raises(AudioError, match="no space left"):
        enhance_file(src, tiny_disk / "b.x")
    assert os.listdir(tiny_disk) == []


def test_a_limit_of_file_sizes_is_named(delay, tmp_path):
    """Of which soundfile says "System error"."""
    resource = pytest.importorskip("resource", reason="not a Unix")
    src = write(tmp_path / "a.wav", noise(100_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(AudioError, match=r"larger than 20000 bytes \(ulimit -f\)"):
            enhance_file(src, tmp_path / "b.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("failing", ["open", "write", "close", "sync"])
def test_a_failing_disk_leaves_nothing(delay, tmp_path, monkeypatch, failing):
    """The same without a disk to fill: whatever step fails, one sentence and no output."""
    src = write(tmp_path / "a.wav", noise(1000))

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if failing == "open":  # libsndfile says "System error" alone
        real = sf.SoundFile

        def cannot_open(file, mode="r", *args, **kwargs):
            if mode == "w":
                raise sf.LibsndfileError(2)
            return real(file, mode, *args, **kwargs)

        monkeypatch.setattr(sf, "SoundFile", cannot_open)
        monkeypatch.setattr(Path, "write_bytes", fail)
    elif failing == "write":
        monkeypatch.setattr(sf.SoundFile, "write", fail)
    elif failing == "close":
        monkeypatch.setattr(audio._Sink, "finish", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((AudioError, OSError), match="[Nn]o space left on"):
        enhance_file(src, tmp_path / "b.wav")
    assert os.listdir(tmp_path) == ["a.wav"]


# --- memory and streams ------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(delay, tmp_path):
    peaks = []
    for seconds in (20, 80):
        src = write(tmp_path / f"{seconds}.wav", noise(44100 * seconds), 44100)
        tracemalloc.start()
        enhance_file(src, tmp_path / f"out{seconds}.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 8e6


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("rate", [16000, 8000, 44100])
@pytest.mark.parametrize("n", [0, 1, 255, 257, 5003])
def test_aligned_stream_has_the_length_of_its_input(n, rate, keep):
    x = noise(n)[:, 0]
    stream = AlignedStream(Delay(), rate, keep_latency=keep)
    parts = [stream.process(x[i : i + 100]) for i in range(0, n, 100)]
    y = np.concatenate([*parts, stream.flush()])
    latency = -(-768 * rate // 16000) if keep else 0
    assert y.size == n + latency
    if rate == 16000:
        assert np.array_equal(y[latency:], x)
        assert not y[:latency].any()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_no_attenuation_gives_all_of_the_input_back(rate, keep):
    x = noise(20_011)[:, 0]
    stream = AlignedStream(Delay(), rate, atten_lim_db=0.0, keep_latency=keep)
    parts = [stream.process(x[i : i + 1000]) for i in range(0, x.size, 1000)]
    y = np.concatenate([*parts, stream.flush()])
    latency = y.size - x.size
    assert np.array_equal(y[latency:], x) and not y[:latency].any()


@pytest.mark.parametrize(
    ("limit", "error"), [(-6.0, ValueError), (float("nan"), ValueError), ("6", TypeError)]
)
def test_a_limit_that_is_none_is_refused(tmp_path, delay, limit, error):
    """A negative one would amplify."""
    src = write(tmp_path / "a.wav", noise(1000))
    with pytest.raises(error, match="atten_lim_db is"):
        enhance_file(src, tmp_path / "b.wav", atten_lim_db=limit)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_attenuation_mixes_the_input_in():
    class Mute(Delay):
        def _give(self, n):
            return 0 * Delay._give(self, n)

    x = noise(5000)[:, 0]
    stream = AlignedStream(Mute(), 44100, atten_lim_db=20.0)
    y = np.concatenate([stream.process(x), stream.flush()])
    np.testing.assert_allclose(y, 0.1 * x, rtol=1e-6)


@pytest.mark.parametrize("limit", [-6.0, float("nan"), "12", True])
def test_attenuation_limits_of_files_are_checked(delay, tmp_path, limit):
    write(tmp_path / "a.wav", noise(1000), 16000)
    with pytest.raises((TypeError, ValueError), match="atten_lim_db is"):
        enhance_file(tmp_path / "a.wav", tmp_path / "b.wav", atten_lim_db=limit)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_paths_may_be_text(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(str(src), str(tmp_path / "b.wav"))
    assert Path(tmp_path / "b.wav").exists()

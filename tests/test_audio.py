"""Sound files: what goes in comes back with the same shape, in time, complete or not at all.

Most tests run a stream that does nothing but wait, so that every difference between input and
output is the fault of the file handling.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from commands import run
from needs import posix
from pure_delay import Delay
from sounds import RATES, lag, noise, read, refuse, tagged, tags, tree, write

from npfsn import audio, chunks, containers, intact, source
from npfsn.audio import enhance_file
from npfsn.errors import AudioError, NormError, NpfsnError
from npfsn.resample import resample
from npfsn.whole import enhance

LENGTHS = (0, 1, 255, 256, 257, 1009, 20011)

# --- shape ---------------------------------------------------------------------------------------


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
        "PAF": "PCM_S8 PCM_16 PCM_24",
    }.items()
    for subtype in subtypes.split()
    if container in sf.available_formats() and sf.check_format(container, subtype)
]


# Libsndfile reads ALAC well, and damages or crashes with some that it writes.
WRITTEN = {"ALAC_16": "PCM_16", "ALAC_20": "PCM_24", "ALAC_24": "PCM_24"}


@pytest.mark.parametrize(("container", "subtype"), SUBTYPES)
def test_the_identity_gives_every_bit_back(delay, tmp_path, container, subtype):
    x = noise(10_000, 2, scale=0.3)
    if subtype == "DOUBLE":
        x = x.astype("f8")  # the engine's floats: no more than float32 is promised
    src = write(tmp_path / "a.audio", x, container=container, subtype=subtype)
    enhance_file(src, tmp_path / "b.audio")
    before, shape = read(src)
    after, same = read(tmp_path / "b.audio")
    assert shape == (16000, 2, container, subtype)
    assert same == (16000, 2, container, WRITTEN.get(subtype, subtype))
    if subtype == "PCM_32":  # float32 has 24 bits
        np.testing.assert_allclose(after, before, atol=2.0**-24, rtol=0)
    else:
        assert np.array_equal(after, before)


@pytest.mark.parametrize("channels", [3, 5])
def test_every_frame_of_odd_channels_is_read(delay, tmp_path, channels):
    """As floats, libsndfile loses some frames of these."""
    src = write(tmp_path / "a.paf", noise(3000, channels), subtype="PCM_24", container="PAF")
    enhance_file(src, tmp_path / "b.wav")
    with sf.SoundFile(src) as file:
        expected = file.read(dtype="int32", always_2d=True)
    with sf.SoundFile(tmp_path / "b.wav") as file:
        assert np.array_equal(file.read(dtype="int32", always_2d=True), expected)


@pytest.mark.parametrize(("suffix", "rate"), [("wve", 16000), ("xi", 16000), ("htk", 15900)])
def test_a_container_with_a_rate_of_its_own_is_refused(delay, tmp_path, suffix, rate):
    """It would play at another speed, if only by a thousandth."""
    src = write(tmp_path / "a.wav", noise(1000), rate)
    refuse(src, tmp_path / f"b.{suffix}", f"cannot hold {rate} Hz, and would play at")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_container_that_rounds_the_rate_is_taken(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000), rate=44100)
    enhance_file(src, tmp_path / "b.sds")
    assert 44100 <= sf.info(tmp_path / "b.sds").samplerate <= 44101


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
def test_the_end_of_a_dump_is_written(delay, tmp_path, subtype):
    """Libsndfile would replace what fills no block of an SDS file, of up to 60 samples."""
    for n_frames in (1, 60, 120, 1001):
        src = write(tmp_path / "a.wav", noise(n_frames), subtype=subtype)
        enhance_file(src, tmp_path / "b.sds", overwrite=True)
        found, expected = read(tmp_path / "b.sds")[0], read(src)[0]
        assert np.array_equal(found[:n_frames], expected)
        assert n_frames <= found.size <= max(n_frames + 59, 120) and not found[n_frames:].any()


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_end_of_a_voc_file_is_not_heard(delay, tmp_path, subtype, channels):
    """Libsndfile would count the zero behind the sound as a sample, of nearly full scale."""
    for n_frames in (0, 1, 1000, 1001):
        src = write(tmp_path / "a.au", noise(n_frames, channels), subtype=subtype, container="AU")
        enhance_file(src, tmp_path / "b.voc", overwrite=True)
        found, shape = read(tmp_path / "b.voc")
        assert shape[2:] == ("VOC", subtype)
        assert np.array_equal(found, read(src)[0])


def test_a_disk_that_is_full_at_the_end_of_a_dump(delay, tmp_path, monkeypatch):
    write_all = sf.SoundFile.write

    def refuse_silence(file, data):
        assert data.any()  # as soundfile does of a short write
        write_all(file, data)

    src = write(tmp_path / "a.wav", noise(1001))
    monkeypatch.setattr(sf.SoundFile, "write", refuse_silence)
    refuse(src, tmp_path / "b.sds", "cannot write .*b.sds")


@pytest.mark.parametrize("subtype", ["ALAC_16", "ALAC_20", "ALAC_24"])
def test_sound_that_alac_would_damage_is_written_as_pcm(delay, tmp_path, subtype):
    """The encoder of libsndfile 1.2.2 fails where it stores sound as it is, as in short ends."""
    for n_frames in (1, 4097, 8193, 10_000):
        src = write(tmp_path / "a.caf", noise(n_frames, 2), subtype=subtype)
        for name in ("b.caf", "b.wav"):
            enhance_file(src, tmp_path / name, overwrite=True)
            found, shape = read(tmp_path / name)
            assert shape == (16000, 2, name[2:].upper(), WRITTEN[subtype])
            assert np.array_equal(found, read(src)[0])


def test_alac_that_libsndfile_cannot_decode_is_refused(delay, tmp_path):
    src = write(tmp_path / "a b.caf", noise(1000), subtype="ALAC_32")
    refuse(src, tmp_path / "b.wav", "some ALAC of 32 bits wrongly; save it as WAV")


def test_dwvw_is_refused_but_not_called_damaged(delay, tmp_path):
    """After each block soundfile seeks to where it is, which libsndfile cannot do in DWVW."""
    src = write(tmp_path / "a.aiff", noise(1000), subtype="DWVW_16")
    refuse(src, tmp_path / "b.wav", "DWVW cannot be read in blocks here; save it as WAV")


@pytest.mark.parametrize(
    ("rate", "options"), [(900, {}), (16000, {"norm": "none"}), (16000, {"model": "none.npz"})]
)
def test_no_folder_is_made_for_what_is_refused(tmp_path, rate, options):
    src = write(tmp_path / "a.wav", noise(1000), rate)
    with pytest.raises(NpfsnError):
        enhance_file(src, tmp_path / "new" / "b.wav", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_byte_order_is_kept(delay, tmp_path):
    with sf.SoundFile(tmp_path / "a.wav", "w", 16000, 1, "PCM_16", "BIG") as file:
        file.write(noise(1000))
    enhance_file(tmp_path / "a.wav", tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFX"
    assert (tmp_path / "b.wav").read_bytes()[:4] == b"RIFX"


def test_a_wavex_of_the_other_byte_order_becomes_one_of_the_usual_order(delay, tmp_path):
    """Of which libsndfile reads both and writes one."""
    pcm = (noise(999)[:, 0] * 32767).astype(">i2")
    guid = bytes.fromhex("0000000100000010800000aa00389b71")
    form = struct.pack(">HHIIHHHHI", 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4) + guid
    content = b"".join(
        name + struct.pack(">I", len(body)) + body
        for name, body in ((b"fmt ", form), (b"data", pcm.tobytes()))
    )
    src = tmp_path / "a.wav"
    src.write_bytes(b"RIFX" + struct.pack(">I", len(content) + 4) + b"WAVE" + content)
    enhance_file(src, tmp_path / "b.wav")
    y, shape = read(tmp_path / "b.wav")
    assert shape == (16000, 1, "WAVEX", "PCM_16")
    assert np.array_equal(y[:, 0] * 32768, pcm)
    with sf.SoundFile(tmp_path / "b.wav") as file:
        assert "Channel Mask  : 0x4" in file.extra_info


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
        monkeypatch.setattr(source, "BLOCK_SAMPLES", size)
        enhance_file(src, tmp_path / "b.wav", overwrite=True)
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
    monkeypatch.setattr(source, "BLOCK_SAMPLES", limit)
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
    src = write(tmp_path / "a.wav", np.zeros((25_000, 1000), np.int16))
    with pytest.raises(AudioError, match="the whole signal at once, 0.1 GB and more; choose"):
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
    for name, what in (("b.txt", r"\.txt cannot be written"), ("b", "its name has no suffix")):
        with pytest.raises(AudioError, match=f"cannot write .*{what}; expected one .*flac, .ogg"):
            enhance_file(src, tmp_path / name)


def test_a_name_that_ends_in_opus_means_opus(delay, tmp_path):
    """The container is Ogg's, whose own default is Vorbis."""
    if not sf.check_format("OGG", "OPUS"):
        pytest.skip("this libsndfile has no Opus")
    for name in ("a.wav", "a.ogg"):
        sf.write(tmp_path / name, noise(1000), 48000)
        enhance_file(tmp_path / name, tmp_path / "b.opus", overwrite=True)
        assert read(tmp_path / "b.opus")[1][2:] == ("OGG", "OPUS")


@pytest.mark.parametrize("name", ["b.mp1", "b.mp2"])
def test_what_is_written_is_called_what_it_is(delay, tmp_path, name):
    """There is an encoder for the third layer only."""
    with pytest.raises(AudioError, match=r"\.mp[12] cannot be written; expected one such as"):
        enhance_file(write(tmp_path / "a.wav", noise(1000)), tmp_path / name)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "caf", "aiff"])
def test_tags_are_kept(delay, tmp_path, suffix):
    given = {"title": "Grüße", "artist": "Someone", "comment": "first take"}
    src = tagged(tmp_path / f"a.{suffix}", given)
    enhance_file(src, tmp_path / f"b.{suffix}")
    enhance_file(tmp_path / f"b.{suffix}", tmp_path / "c.flac")
    assert tags(tmp_path / f"b.{suffix}") == tags(tmp_path / "c.flac") == given


@pytest.mark.parametrize("suffix", "wav rf64 flac ogg opus mp3 aiff caf au".split())
def test_tags_are_kept_or_named(delay, tmp_path, suffix):
    """Libsndfile does not tell which ones it drops."""
    names = ("title", "copyright", "artist", "comment", "date", "album", "license", "tracknumber",
             "genre")  # fmt: skip
    src = tagged(tmp_path / "a.flac", dict.fromkeys(names, "12"))
    left_out = enhance_file(src, tmp_path / f"b.{suffix}").tags_left_out
    found = tags(tmp_path / f"b.{suffix}")
    assert {name for name in names if found.get(name)} == set(names) - set(left_out)
    assert len(set(left_out)) == len(left_out)
    assert ("license" in left_out) == (suffix in ("wav", "rf64", "mp3", "aiff", "au"))


@pytest.mark.parametrize("suffix", ["aiff", "flac"])
def test_a_copyright_may_have_its_sign(delay, tmp_path, suffix):
    """Libsndfile reads that of an AIFF file as ASCII, with dots for the rest."""
    given = {"title": "Grüße", "copyright": "© 2020 Müller"}
    src = tagged(tmp_path / "a.aiff", given)
    assert enhance_file(src, tmp_path / f"b.{suffix}").tags_left_out == ()
    assert given["copyright"].encode() in (tmp_path / f"b.{suffix}").read_bytes()
    src.write_bytes(src.read_bytes().replace("ü".encode(), b"\xfc "))  # Latin-1
    assert "copyright" in enhance_file(src, tmp_path / f"c.{suffix}").tags_left_out


def test_a_date_that_is_cut_off_is_named(delay, tmp_path):
    """LAME writes an ID3v1 tag, which holds a year, where all other tags fit into it."""
    src = tmp_path / "a.flac"
    with sf.SoundFile(src, "w", 16000, 1) as file:
        file.title, file.date = " a song ", "2024-05-06"
        file.write(noise(3000))
    assert enhance_file(src, tmp_path / "b.mp3").tags_left_out == ("date",)
    assert enhance_file(src, tmp_path / "b.wav").tags_left_out == ()


def test_a_track_number_is_the_same_without_zeros(delay, tmp_path):
    src = tmp_path / "a.flac"
    with sf.SoundFile(src, "w", 16000, 1) as file:
        file.title, file.tracknumber = "a song", "03"
        file.write(noise(3000))
    assert enhance_file(src, tmp_path / "b.mp3").tags_left_out == ()
    with sf.SoundFile(tmp_path / "b.mp3") as file:
        assert file.tracknumber == "3"


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


def chunk(name: bytes, content: bytes, order: str = "little") -> bytes:
    return name + len(content).to_bytes(4, order) + content + bytes(len(content) % 2)


def with_chunks(path: Path, before: bytes, behind: bytes) -> Path:
    """Put chunks in front of a file's sound, and behind it."""
    data = path.read_bytes()
    at = data.index(b"data" if data.startswith(b"RIFF") else b"SSND")
    path.write_bytes(enlarged(data[:at] + before + data[at:], behind))
    return path


def enlarged(data: bytes, behind: bytes) -> bytes:
    """Return a file with chunks behind it, which its header counts."""
    data += bytes(len(data) % 2) + behind
    order = "little" if data.startswith(b"RIFF") else "big"
    return data[:4] + (len(data) - 8).to_bytes(4, order) + data[8:]


BEXT = chunk(b"bext", b"a recorder".ljust(602, b"\0"))
CUE = chunk(b"cue ", (1).to_bytes(4, "little") + bytes(range(24)))
LABEL = chunk(b"LIST", b"adtl" + chunk(b"labl", b"\1\0\0\0a mark\0"))
IXML = chunk(b"iXML", b"<BWFXML/>!")
SMPL = chunk(b"smpl", b"\7" * 37)  # an odd number


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("n_frame", [0, 999, 16000])
def test_time_codes_and_markers_are_kept(delay, tmp_path, subtype, n_frame):
    """Of a WAV file in a WAV file, byte by byte; another container has no place for them."""
    src = tmp_path / "a.wav"
    sf.write(src, noise(n_frame), 16000, subtype)
    plain = enhance_file(src, tmp_path / "plain.wav")
    with_chunks(src, BEXT + chunk(b"JUNK", b"x" * 9), CUE + LABEL + IXML + SMPL)
    report = enhance_file(src, tmp_path / "b.wav")
    # libsndfile writes the second into the PEAK chunk of a float file: version, time, peak.
    data, expected = (tmp_path / "b.wav").read_bytes(), (tmp_path / "plain.wav").read_bytes()
    if subtype == "FLOAT":
        at = expected.index(b"PEAK") + 12
        expected = expected[:at] + data[at : at + 4] + expected[at + 4 :]
    assert data == enlarged(expected, BEXT + CUE + LABEL + IXML + SMPL)
    assert report.tags_left_out == plain.tags_left_out == ()
    enhance_file(tmp_path / "b.wav", tmp_path / "c.wav")  # nothing is lost or doubled
    for each in (BEXT, CUE, LABEL, IXML, SMPL):
        assert (tmp_path / "c.wav").read_bytes().count(each) == 1
    if n_frame and subtype != "FLOAT":
        report = enhance_file(src, tmp_path / "b.flac")
        assert report.tags_left_out == ("bext", "cue", "adtl", "iXML", "smpl")


def test_time_codes_and_markers_of_long_takes_are_kept(delay, tmp_path, monkeypatch):
    """RF64, which recorders write where a WAV file might become too long, counts in 64 bits."""
    src = write(tmp_path / "a.wav", noise(999), container="RF64")
    plain = enhance_file(src, tmp_path / "plain.wav")
    data = src.read_bytes()
    data += bytes(len(data) % 2) + BEXT + CUE + LABEL + IXML
    src.write_bytes(data[:20] + (len(data) - 8).to_bytes(8, "little") + data[28:])
    report = enhance_file(src, tmp_path / "b.wav")
    assert report.tags_left_out == plain.tags_left_out == ()
    data, expected = (tmp_path / "b.wav").read_bytes(), (tmp_path / "plain.wav").read_bytes()
    expected += bytes(len(expected) % 2) + BEXT + CUE + LABEL + IXML
    assert data == expected[:20] + (len(expected) - 8).to_bytes(8, "little") + expected[28:]
    enhance_file(tmp_path / "b.wav", tmp_path / "c.wav")  # nothing is lost or doubled
    assert (tmp_path / "c.wav").read_bytes() == data
    # From a short file into a long one, and back.
    short = with_chunks(write(tmp_path / "d.wav", noise(999)), b"", BEXT)
    assert enhance_file(short, tmp_path / "d.rf64").tags_left_out == ()
    assert (tmp_path / "d.rf64").read_bytes().endswith(BEXT)
    assert enhance_file(tmp_path / "d.rf64", tmp_path / "e.wav").tags_left_out == ()
    assert (tmp_path / "e.wav").read_bytes().endswith(BEXT)
    report = enhance_file(src, tmp_path / "b.flac")
    assert report.tags_left_out == ("bext", "cue", "adtl", "iXML")
    monkeypatch.setattr(chunks, "_LARGEST_FILE", 100)
    assert enhance_file(short, tmp_path / "f.wav").tags_left_out == ("bext",)
    assert enhance_file(short, tmp_path / "f.rf64").tags_left_out == ()


def test_time_codes_of_the_other_byte_order_are_kept(delay, tmp_path):
    src = tmp_path / "a.wav"
    sf.write(src, noise(999), 16000, "PCM_16", "BIG")
    note = chunk(b"bext", b"a recorder".ljust(602, b"\0"), "big")
    data = src.read_bytes() + note
    src.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "big") + data[8:])
    assert enhance_file(src, tmp_path / "b.wav").tags_left_out == ()
    data = (tmp_path / "b.wav").read_bytes()
    assert data.endswith(note) and data[:8] == b"RIFX" + (len(data) - 8).to_bytes(4, "big")


def test_the_size_of_a_long_take_counts_its_notes(tmp_path):
    with open(tmp_path / "a.rf64", "wb+") as file:
        file.write(b"RF64\xff\xff\xff\xffWAVEds64" + (28).to_bytes(4, "little"))
        file.truncate(5 << 30)  # takes no room on the disk
        file.seek(0)
        assert chunks.append(file, [chunks.Note(b"RF64", b"bext", "bext", bytes(602))]) == []
        file.seek(20)
        assert int.from_bytes(file.read(8), "little") == (5 << 30) + 8 + 602 - 8


def test_markers_of_aiff_files_are_kept(delay, tmp_path):
    src = tmp_path / "a.aiff"
    sf.write(src, noise(4000), 16000)
    mark = chunk(b"MARK", bytes([0, 1, 0, 1, 0, 0, 0, 9, 4]) + b"here\0", "big")
    with_chunks(src, mark, b"")
    assert enhance_file(src, tmp_path / "b.aiff").tags_left_out == ()
    assert (tmp_path / "b.aiff").read_bytes().endswith(mark)
    assert enhance_file(src, tmp_path / "b.wav").tags_left_out == ("MARK",)
    assert b"MARK" not in (tmp_path / "b.wav").read_bytes()


def test_chunks_without_measure_are_not_kept(delay, tmp_path):
    """Memory stays bounded; each kind is named once."""
    src = tmp_path / "a.wav"
    sf.write(src, noise(4000), 16000)
    with_chunks(src, chunk(b"bext", bytes(5 << 20)), chunk(b"cue ", b"") * 5000 + IXML)
    report = enhance_file(src, tmp_path / "b.wav")
    assert report.tags_left_out == ("bext", "cue", "iXML")
    assert (tmp_path / "b.wav").read_bytes().count(chunk(b"cue ", b"")) == 4096


def test_chunks_that_are_cut_off_are_no_notes(delay, tmp_path):
    src = tmp_path / "a.wav"
    sf.write(src, noise(4000), 16000)
    data = with_chunks(src, b"", BEXT).read_bytes()[:-1]
    src.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])
    assert enhance_file(src, tmp_path / "b.wav").tags_left_out == ()
    assert b"bext" not in (tmp_path / "b.wav").read_bytes()


def test_a_list_that_is_too_short_is_no_note(delay, tmp_path):
    src = tmp_path / "a.wav"
    sf.write(src, noise(4000), 16000)
    with_chunks(src, b"", b"LIST\3\0\0\0adtl")  # the fourth letter does not belong to it
    enhance_file(src, tmp_path / "b.wav")
    assert b"LIST" not in (tmp_path / "b.wav").read_bytes()


def test_tags_that_nobody_can_read_are_left_out(delay, tmp_path):
    src = tagged(tmp_path / "a.wav", {"title": "GrXXe", "artist": "Someone"})
    src.write_bytes(src.read_bytes().replace(b"GrXXe", b"Gr\xfc\xdfe"))  # Latin-1
    enhance_file(src, tmp_path / "b.wav")
    assert tags(tmp_path / "b.wav") == {"artist": "Someone"}


# --- level ---------------------------------------------------------------------------------------


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


# --- files that cannot be read -------------------------------------------------------------------


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


def test_a_rate_is_refused_before_any_stream_is_made(tmp_path, monkeypatch):
    """A thousand channels of streams would take gigabytes first."""
    src = write(tmp_path / "a.wav", np.zeros((100, 1000)), 500)
    monkeypatch.setattr("npfsn.enhancer.Enhancer.__init__", None)
    refuse(src, tmp_path / "b.wav", "sample rate is 500")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.ogg", "a.flac", "a.mp3"])
def test_a_file_without_a_sample(delay, tmp_path, name):
    """FLAC and MP3 cannot hold that: the format was blamed."""
    src = write(tmp_path / "empty.wav", np.zeros((0, 1)))
    if name in ("a.flac", "a.mp3"):
        refuse(src, tmp_path / name, "there is no sound in the input.*--format wav")
    else:
        report = enhance_file(src, tmp_path / name)
        assert report.samples == len(read(tmp_path / name)[0]) == 0
        assert report.seconds == report.rtf == report.peak == 0.0


@posix
def test_missing_files_folders_and_pipes_are_refused(delay, tmp_path):
    refuse(tmp_path / "no.wav", tmp_path / "b.wav", "No such file")
    (tmp_path / "folder.wav").mkdir()
    refuse(tmp_path / "folder.wav", tmp_path / "b.wav", "is a folder")
    with pytest.raises(AudioError, match="cannot read"):
        enhance_file(tmp_path / "nul\0l.wav", tmp_path / "b.wav")
    for wrong in ("", None, 3, b""):
        error = AudioError if wrong == "" else TypeError
        with pytest.raises(error, match="src is .*: expected the path"):
            enhance_file(wrong, "b.wav")
        with pytest.raises(error, match="dst is .*: expected the path"):
            enhance_file("a.wav", wrong)
    write(tmp_path / "a.wav", noise(1000), 16000)
    with pytest.raises(AudioError, match="cannot write"):
        enhance_file(tmp_path / "a.wav", tmp_path / "nul\0l.wav")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        refuse(tmp_path / "pipe.wav", tmp_path / "b.wav", "npfsn stream")
        with pytest.raises(AudioError, match=r"cannot write .*pipe.wav: it is a pipe"):
            enhance_file(tmp_path / "a.wav", tmp_path / "pipe.wav", overwrite=True)
        assert (tmp_path / "pipe.wav").is_fifo()


@pytest.mark.parametrize("rate", [1, 999, 1_000_000, 2**31 - 1])
def test_absurd_sample_rates_are_refused(delay, tmp_path, rate):
    src = write(tmp_path / "a.wav", noise(1000))
    content = bytearray(src.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    src.write_bytes(content)
    refuse(src, tmp_path / "b.wav", "sample rate")


# --- the output: complete or absent --------------------------------------------------------------


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


def test_a_container_with_fewer_bits_gets_all_it_has(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000), subtype="PCM_32")
    enhance_file(src, tmp_path / "b.flac")
    assert read(tmp_path / "b.flac")[1][2:] == ("FLAC", "PCM_24")


@pytest.mark.parametrize(("container", "most"), [("VOC", (1 << 23) - 7), ("SDS", (1 << 21) - 61)])
def test_the_longest_file_of_a_container_that_counts_in_few_bits(container, most):
    """Libsndfile writes what is left of a larger number, and players hear the end at most."""
    source = types.SimpleNamespace(
        format="WAV", subtype="PCM_16", endian="FILE", frames=most, channels=1
    )
    dst = Path(f"b.{container.lower()}")
    assert containers.target_format(source, Path("a.wav"), dst)[0] == container
    source.frames += 1
    with pytest.raises(AudioError, match=f"more than a {container} file can hold"):
        containers.target_format(source, Path("a.wav"), dst)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_S8", "ULAW", "PCM_16"])
def test_a_small_container_for_a_large_file(subtype):
    source = types.SimpleNamespace(
        format="W64", subtype=subtype, endian="FILE", frames=5 << 30, channels=1
    )
    with pytest.raises(AudioError, match="more than a (WAV|AIFF) file can hold"):
        containers.target_format(
            source, Path("a.w64"), Path("b.aiff" if subtype == "PCM_S8" else "b.wav")
        )


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("flac", "PCM_S8"), ("caf", "PCM_S8"), ("ogg", "VORBIS")]
)
def test_eight_bits_stay_eight_where_there_are_eight(delay, tmp_path, suffix, subtype):
    src = write(tmp_path / "a.wav", noise(1000), subtype="PCM_U8")
    enhance_file(src, tmp_path / f"b.{suffix}")
    assert sf.info(tmp_path / f"b.{suffix}").subtype == subtype


def test_wrong_options_are_told_whatever_the_file(tmp_path):
    """An empty one, too, and before a long one is read for an offline norm."""
    src = write(tmp_path / "a.wav", noise(0))
    with pytest.raises(NormError, match="unknown norm"):
        enhance_file(src, tmp_path / "b.wav", norm="nonsense")
    out = tmp_path / "folder" / "b.wav"
    for norm in (None, "offline_laplace_norm"):
        with pytest.raises(ValueError, match="unknown precision"):
            enhance_file(src, out, norm=norm, precision="int9")
    with pytest.raises(ValueError, match="expected at least one hop"):
        enhance_file(src, out, norm_horizon=0.001)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_compiling_is_no_enhancing(delay, tmp_path, monkeypatch):
    """What is compiled between blocks, as happens with offline norms, counts as compiling."""
    so_far = iter([1.0, 6.0])
    monkeypatch.setattr("npfsn.machine_code.seconds_compiling", lambda: next(so_far))
    report = enhance_file(write(tmp_path / "a.wav", noise(1000)), tmp_path / "b.wav")
    assert report.compile_seconds > 4.5 and report.wall_seconds < 0.5


def test_files_too_large_for_their_container_are_refused_at_once(delay, tmp_path, monkeypatch):
    src = write(tmp_path / "a.w64", noise(1000), subtype="DOUBLE", container="W64")
    monkeypatch.setattr(containers, "_SAMPLE_BYTES", {"DOUBLE": 1 << 31})  # as if it were that long
    with pytest.raises(AudioError, match="more than a WAV file can hold; choose --format w64"):
        enhance_file(src, tmp_path / "b.wav")
    enhance_file(src, tmp_path / "b.rf64")


@pytest.mark.parametrize(
    ("suffix", "peak", "n_clipped"),
    [("mp3", 3e38, 1), ("ogg", 3e38, 1), ("ogg", 900.0, 0), ("opus", 1.8, 1), ("mp3", 1.8, 0)],
)
def test_lossy_encoders_get_what_they_can_hold(delay, tmp_path, suffix, peak, n_clipped):
    """LAME aborts the process, Vorbis loses the rest; of Opus samples beyond 1 are counted, too."""
    x = 0.1 * np.sin(np.arange(32000) / 10)[:, None]
    x[8000] = peak
    src = write(tmp_path / "a.wav", x, subtype="FLOAT")
    assert enhance_file(src, tmp_path / f"b.{suffix}").n_clipped == n_clipped
    y, _ = read(tmp_path / f"b.{suffix}")
    assert np.std(y[16000:31000] - x[16000:31000]) < 0.01


@pytest.mark.parametrize(
    ("suffix", "channels", "rate", "fits"),
    [
        ("opus", 5, 48000, True),
        ("opus", 6, 48000, False),
        ("opus", 8, 16000, False),
        ("ogg", 5, 48000, True),
        ("ogg", 6, 48000, False),
        ("ogg", 6, 44100, False),
        ("ogg", 6, 32000, True),
        ("ogg", 6, 96000, True),
        ("ogg", 7, 48000, True),
    ],
)
def test_no_channel_becomes_that_of_the_bass(delay, tmp_path, suffix, channels, rate, fits):
    """Encoders that take the last channel for a subwoofer's are not given one of another kind."""
    x = noise(2 * rate, channels)
    src = write(tmp_path / "a.wav", x, rate, subtype="FLOAT")
    dst = tmp_path / f"b.{suffix}"
    if not fits:
        with pytest.raises(AudioError, match=f"of the last of {channels} channels .* --format fl"):
            enhance_file(src, dst)
        with sf.SoundFile(
            tmp_path / f"c.{suffix}", "w", rate, channels, format="OGG",
            subtype="OPUS" if suffix == "opus" else "VORBIS",
        ) as file:  # fmt: skip
            for at in range(0, len(x), 4096):
                file.write(x[at : at + 4096])
        enhance_file(tmp_path / f"c.{suffix}", dst)  # its last channel is one
        return
    enhance_file(src, dst)
    spectrum = np.abs(np.fft.rfft(read(dst)[0], axis=0)) ** 2
    energy = spectrum[2000:6000].sum(axis=0)  # 1 to 3 kHz
    assert energy.min() > 0.5 * energy.max()


@pytest.mark.parametrize("suffix", ["flac", "mp3", "opus"])
def test_nothing_becomes_no_broken_file(delay, tmp_path, suffix):
    write(tmp_path / "a.wav", noise(0))
    with pytest.raises(AudioError, match="cannot write"):
        enhance_file(tmp_path / "a.wav", tmp_path / f"b.{suffix}")
    assert not (tmp_path / f"b.{suffix}").exists()
    enhance_file(tmp_path / "a.wav", tmp_path / "b.wav")


@pytest.mark.parametrize(
    ("rate", "channels", "code"),
    [(200_000, 1, 0), (200_001, 1, 1), (16_000, 255, 0), (16_000, 256, 1)],
)
def test_what_crashes_an_encoder_is_refused(tmp_path, rate, channels, code):
    """In a process of its own, which libsndfile would end."""
    write(tmp_path / "a.wav", noise(300, channels), rate)
    _, err = run("enhance", "a.wav", "-o", "new/b.ogg", cwd=tmp_path, code=code)
    if code:
        assert not (tmp_path / "new").exists()
        assert "(at most 200000 Hz and 255 channels): choose another container" in err
        assert [*tree(tmp_path)] == ["a.wav"]
    else:
        assert sf.info(tmp_path / "new/b.ogg").samplerate == rate


def test_a_folder_that_cannot_be_made_is_told(delay, tmp_path, monkeypatch):
    src = write(tmp_path / "a.wav", noise(1000))

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(AudioError, match=r"cannot write .*b\.wav: Permission denied"):
        enhance_file(src, tmp_path / "new" / "b.wav")


def test_a_file_that_may_not_be_read_is_told(delay, tmp_path, monkeypatch):
    """In the system's words, before soundfile calls it "System error"; also an empty one."""
    src, empty = write(tmp_path / "a.wav", noise(1000)), tmp_path / "empty.wav"
    empty.touch()

    def denied(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(intact, "open", denied, raising=False)
    for path in (src, empty):
        refuse(path, tmp_path / "b.wav", rf"cannot read .*{path.name}: Permission denied")


def test_a_refused_container_leaves_no_folder(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    with pytest.raises(AudioError, match=r"cannot write .*b\.mp4: \.mp4 cannot be written"):
        enhance_file(src, tmp_path / "new" / "b.mp4")
    assert not (tmp_path / "new").exists()
    (tmp_path / "out").mkdir()  # and what is there already is told first
    with pytest.raises(AudioError, match="there is a folder of this name"):
        enhance_file(src, tmp_path / "out")
    with pytest.raises(AudioError, match=r"cannot write .*new\.wav/: only names of folders end so"):
        enhance_file(src, f"{tmp_path}/new.wav/")
    assert tree(tmp_path) == ["a.wav"]


def test_read_only_containers_name_a_way_out(delay, tmp_path):
    src = tmp_path / "a.sd2"
    if "SD2" not in sf.available_formats():
        pytest.skip("this libsndfile has no SD2")
    write(src, noise(1000), container="SD2")
    with pytest.raises(AudioError, match="--format wav"):
        enhance_file(src, tmp_path / "b.sd2")
    enhance_file(src, tmp_path / "b.wav")


# --- memory and streams --------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("limit", "error"),
    [(-6.0, ValueError), (float("nan"), ValueError), ("12", TypeError), (True, TypeError)],
)
def test_attenuation_limits_of_files_are_checked(delay, tmp_path, limit, error):
    """A negative one would amplify."""
    src = write(tmp_path / "a.wav", noise(1000))
    with pytest.raises(error, match="atten_lim_db is"):
        enhance_file(src, tmp_path / "b.wav", atten_lim_db=limit)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_paths_may_be_text(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(str(src), str(tmp_path / "b.wav"))
    assert Path(tmp_path / "b.wav").exists()


def test_samples_of_all_blocks_are_counted(delay, tmp_path):
    """Clipped ones and those that are not finite."""
    x = np.zeros(2 * source.BLOCK_SAMPLES + 100, np.float32)
    for value, suffix in ((1.5, ".flac"), (np.nan, ".wav")):
        x[[10, source.BLOCK_SAMPLES + 10]] = value
        sf.write(tmp_path / "a.wav", x, 16000, "FLOAT")
        report = enhance_file(tmp_path / "a.wav", tmp_path / f"b{suffix}")
        assert report.n_clipped + report.n_nonfinite == 2


def test_a_tag_is_measured_in_bytes(delay, tmp_path):
    with sf.SoundFile(tmp_path / "a.flac", "w", 16000, 1) as file:
        file.comment = "ä" * 600
        file.write(np.zeros(100))
    report = enhance_file(tmp_path / "a.flac", tmp_path / "b.flac")
    assert report.tags_left_out == ("comment",)


@pytest.mark.parametrize("name", ["a.raw", "a.PCM", "a.s16le", "a.f32"])
def test_samples_without_a_header_are_sent_to_the_stream(delay, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(bytes(1000))
    refuse(path, tmp_path / "b.wav", "samples without a header are for `npfsn stream`")


def test_an_offline_norm_takes_more_channels_than_samples(tmp_path, models):
    x, seen = noise(30, 64), []
    src = write(tmp_path / "a.wav", x, subtype="FLOAT")
    enhance_file(
        src,
        tmp_path / "b.wav",
        models["offline"],
        progress=lambda *seconds: seen.append(seconds),
    )
    expected = np.stack([enhance(c, 16000, models["offline"]) for c in np.float32(x).T], axis=1)
    assert np.array_equal(read(tmp_path / "b.wav")[0], expected)
    done = [each for each, _ in seen]
    assert len(seen) >= 64 and done == sorted(done) and seen[-1] == (30 / 16000, 30 / 16000)


@pytest.mark.parametrize("channels", [3, 6, 7])
def test_progress_ends_at_the_total(tmp_path, models, channels):
    """Not beside it, by a rounding error: not even of many channels."""
    rate, norm, x = 8000, "offline_laplace_norm", noise(3147, channels)
    src, total, seen = write(tmp_path / "a.wav", x, rate), 3147 / rate, []

    def note(*seconds):
        seen.append(seconds)

    enhance_file(src, tmp_path / "b.wav", models["fast"], norm=norm, progress=note)
    assert seen == sorted(seen) and seen[-1] == (total, total)
    seen.clear()
    enhance(np.float32(x), rate, models["fast"], norm=norm, progress=note)
    assert seen == sorted(seen) and seen[-1] == (total, total)


def test_a_limit_holds_with_an_offline_norm(tmp_path, models):
    x = noise(4000)
    enhance_file(
        write(tmp_path / "a.wav", x, subtype="FLOAT"),
        tmp_path / "b.wav",
        models["offline"],
        atten_lim_db=6.0,
    )
    expected = enhance(x, 16000, models["offline"], atten_lim_db=6.0)
    np.testing.assert_array_equal(read(tmp_path / "b.wav")[0], expected)


def test_damage_is_told_within_the_length_of_the_file(delay, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the decoder lost its way")

    src = write(tmp_path / "a.wav", noise(8000))
    monkeypatch.setattr(sf.SoundFile, "read", fail)
    refuse(src, tmp_path / "b.wav", r"damaged between 0\.0 and 0\.5 s")


def test_a_file_that_is_called_a_dash_is_a_file(delay, tmp_path, monkeypatch):
    """To libsndfile that is standard input."""
    write(tmp_path / "a.wav", noise(1000)).rename(tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    assert enhance_file("-", "b.wav").samples == 1000


def test_a_progress_that_is_no_function_is_refused_at_once(delay, tmp_path):
    with pytest.raises(TypeError, match="progress is 3: expected a function"):
        enhance_file(tmp_path / "a.wav", tmp_path / "b.wav", progress=3)


def test_long_alac_is_no_damaged_alac(delay, tmp_path):
    """Of more than one block; whole packets of 4096, which libsndfile writes well."""
    x = noise(2 * source.BLOCK_SAMPLES)
    src = write(tmp_path / "a.caf", x, subtype="ALAC_16")
    enhance_file(src, tmp_path / "b.caf")
    assert np.array_equal(read(tmp_path / "b.caf")[0], read(src)[0])


@pytest.mark.parametrize(
    ("subtype", "channels", "n_packets"),
    [("ALAC_24", 2, 72), ("ALAC_24", 2, 68), ("ALAC_24", 1, 90), ("ALAC_16", 2, 90)]
    + [("ALAC_16", 3, 72)],
)
def test_no_alac_crashes_its_encoder(delay, tmp_path, subtype, channels, n_packets):
    """With more than 76 packets of 16 KiB and more, libsndfile 1.2.2 writes beyond a table."""
    x = noise(n_packets * 4096, channels, scale=0.1)
    src = write(tmp_path / "a.caf", x, subtype=subtype)
    enhance_file(src, tmp_path / "b.caf")
    assert np.array_equal(read(tmp_path / "b.caf")[0], read(src)[0])


def test_large_packets_of_alac_between_small_ones(delay, tmp_path):
    """Blocks of three channels hold no whole number of packets."""
    x = noise(148 * 4096, 3, scale=0.1)
    x[np.arange(len(x)) // 4096 % 2 == 1] = 0.0  # every second packet is small
    src = write(tmp_path / "a.caf", x, subtype="ALAC_16")
    enhance_file(src, tmp_path / "b.caf")
    assert np.array_equal(read(tmp_path / "b.caf")[0], read(src)[0])


def test_alac_needs_no_temporary_file(delay, tmp_path, monkeypatch):
    """Its encoder keeps one, and crashes where the folder for them is full."""
    src = write(tmp_path / "a.caf", noise(1000), subtype="ALAC_16")
    make, subtypes = sf.SoundFile, []

    def spy(file, mode="r", *args, **kwargs):
        made = make(file, mode, *args, **kwargs)
        if mode == "w":
            subtypes.append(made.subtype)
        return made

    monkeypatch.setattr(sf, "SoundFile", spy)
    enhance_file(src, tmp_path / "b.caf")
    assert subtypes == ["PCM_16"]


def test_encoders_get_little_at_a_time(delay, tmp_path, monkeypatch):
    """Lossy ones put what they get on the stack, which is small in threads."""
    write_all, sizes = sf.SoundFile.write, []
    src = write(tmp_path / "a.wav", noise(20_000))
    monkeypatch.setattr(
        sf.SoundFile, "write", lambda file, data: sizes.append(len(data)) or write_all(file, data)
    )
    enhance_file(src, tmp_path / "b.ogg")
    assert sum(sizes) == 20_000 and max(sizes) <= 4096

"""MP3 files, which may not say how long they are."""

from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
import soundfile as sf
from sounds import noise, read, refuse, tagged

from npfsn import mp3
from npfsn.audio import enhance_file


@pytest.mark.parametrize("counted", [10, 60])
def test_an_mp3_table_that_counts_too_few(delay, tmp_path, counted):
    sf.write(tmp_path / "a.mp3", noise(48_000), 16000)
    content = bytearray((tmp_path / "a.mp3").read_bytes())
    at = next(content.index(name) for name in (b"Xing", b"Info") if name in content) + 8
    assert int.from_bytes(content[at : at + 4], "big") > 80
    content[at : at + 4] = counted.to_bytes(4, "big")
    (tmp_path / "a.mp3").write_bytes(content)
    refuse(tmp_path / "a.mp3", tmp_path / "b.mp3", "holds more sound than its header counts")


def id3_tag(n_text):
    """Return a tag with so many texts."""
    texts = [b"\0%06d\0x" % i for i in range(n_text)]
    frames = b"".join(b"TXXX" + struct.pack(">L", len(t)) + bytes(2) + t for t in texts)
    return b"ID3\3\0\0" + bytes(len(frames) >> shift & 127 for shift in (21, 14, 7, 0)) + frames


def in_wav(sound):
    """Return a WAV that holds an MP3 at 16 kHz."""
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16000, 4000, 1, 0, 12, 1, 2, 288, 1, 1393)
    chunks = [(b"fmt ", form), (b"fact", struct.pack("<I", 16000)), (b"data", sound)]
    body = b"".join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


@pytest.mark.parametrize("place", ["before", "within", "in a WAV"])
def test_more_comments_than_any_program_writes(delay, tmp_path, place):
    """Libmpg123 compares each with all before it."""
    sf.write(tmp_path / "a.mp3", noise(16_000), 16000)
    sound, tag = (tmp_path / "a.mp3").read_bytes(), id3_tag(20_000)
    found = {"before": tag + sound, "within": sound + tag + sound, "in a WAV": in_wav(tag + sound)}
    (tmp_path / "a.mp3").write_bytes(found[place])
    started = time.process_time()
    refuse(
        tmp_path / "a.mp3", tmp_path / "b.mp3", "20,000 comments and texts in its tags, more than"
    )
    assert time.process_time() - started < 0.5


def test_a_recorded_broadcast_has_a_tag_now_and_then(tmp_path):
    """Each is small: no time is lost with them. Nor are names counted in sound that is no MP3."""
    path = tmp_path / "a.mp3"
    sf.write(path, noise(1000), 16000)
    path.write_bytes((id3_tag(1) + path.read_bytes()) * 6000)
    with open(path, "rb") as file:
        mp3.check_tags(path, file)
    path.write_bytes(in_wav(b"TXXX" * 6000).replace(b"\x55\0", b"\1\0", 1))
    with open(path, "rb") as file:
        mp3.check_tags(path, file)


def test_a_wav_that_holds_an_mp3(delay, tmp_path):
    """Libsndfile reads these and writes none."""
    sf.write(tmp_path / "a.mp3", noise(16000), 16000)
    src = tmp_path / "a.wav"
    src.write_bytes(in_wav((tmp_path / "a.mp3").read_bytes()))
    assert sf.info(src).subtype == "MPEG_LAYER_III"
    enhance_file(src, tmp_path / "b.wav")
    assert read(tmp_path / "b.wav")[1][2:] == ("WAV", "PCM_16")


def test_the_next_mp3_may_begin_with_a_tag(delay, tmp_path):
    sf.write(tmp_path / "a.mp3", noise(20000), 16000)
    second = tagged(
        tmp_path / "b.mp3", {"title": "The second recording of a long day"}
    ).read_bytes()
    assert second.startswith(b"ID3")
    (tmp_path / "c.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + second)
    refuse(tmp_path / "c.mp3", tmp_path / "d.mp3", "several recordings")


MODES = [{}, {"bitrate_mode": "CONSTANT"}, {"bitrate_mode": "VARIABLE"}]  # of MP3


def without_table(path, tag=b"", junk=b"", table=b""):
    """Let an MP3's first frame be sound, or a table that nobody reads; return a header."""
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
    header = without_table(src, **others)
    report = enhance_file(src, tmp_path / "b.wav", atten_lim_db=0)  # all of the input
    got, late = read(tmp_path / "b.wav")[0], 576 + 529  # of encoder and decoder, told by the table
    assert report.samples == len(got) and len(whole) + late <= len(got) < len(whole) + late + 1200
    assert np.abs(got[late : late + len(whole)] - whole).max() < 2.0**-14
    # What lies behind the last whole frame is nothing to lose: tags, or a part of a frame.
    for rest in (b"TAG" + bytes(125), header + bytes(20)):
        (tmp_path / "c.mp3").write_bytes(src.read_bytes() + rest)
        enhance_file(tmp_path / "c.mp3", tmp_path / "c.wav", overwrite=True)
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
            mp3.with_frame_table(file)
            mp3.is_followed(file)
    lone = data[:4] + bytes(40)  # nothing where the next one should be
    started = time.perf_counter()
    assert mp3.with_frame_table(io.BytesIO(100_000 * lone)) is None
    view = mp3.with_frame_table(
        io.BytesIO(20_000 * (2 * data[frame.size : 2 * frame.size] + b"\0"))
    )
    assert view is not None and time.perf_counter() - started < 30.0  # a second


def test_a_tag_behind_an_mp3_is_no_recording(delay, tmp_path):
    sf.write(tmp_path / "a.mp3", noise(20000, 1), 16000)
    with open(tmp_path / "a.mp3", "ab") as file:
        file.write(b"TAG" + bytes(125))
    assert enhance_file(tmp_path / "a.mp3", tmp_path / "b.mp3").samples == 20000


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS")]
)
def test_an_mp3_becomes_anything(delay, tmp_path, suffix, subtype):
    """A WAV may hold MPEG samples, says libsndfile, and cannot write them."""
    sf.write(tmp_path / "a.mp3", noise(20000, 1), 16000)
    assert enhance_file(tmp_path / "a.mp3", tmp_path / f"b.{suffix}").samples == 20000
    found = sf.info(tmp_path / f"b.{suffix}")
    assert (found.subtype, found.frames) == (subtype, 20000)


@pytest.mark.parametrize("end", [0, 2000, 9000])
def test_an_mp3_without_a_table_on_a_bad_disk(delay, tmp_path, monkeypatch, capfd, end):
    """An exception within soundfile would be printed with its traceback, and lost."""
    if "MP3" not in sf.available_formats():
        pytest.skip("this libsndfile has no MP3")
    sf.write(tmp_path / "a.mp3", noise(100_000), 16000, **MODES[0])
    without_table(tmp_path / "a.mp3")
    make = mp3.with_frame_table

    class Bad(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= end:
                raise OSError(5, "Input/output error")
            return super().read(size)

    def bad_view(file):
        view = make(file)
        view._file = Bad((tmp_path / "a.mp3").read_bytes())
        return view

    monkeypatch.setattr(mp3, "with_frame_table", bad_view)
    refuse(tmp_path / "a.mp3", tmp_path / "b.wav", "cannot read .*a.mp3: Input/output error")
    assert "Traceback" not in capfd.readouterr().err

"""Sound files that are cut short or damaged, or hold more than they say, are refused."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import soundfile as sf
from sounds import noise, read, refuse, write

from npfsn import audio, chunks, intact
from npfsn.audio import enhance_file
from npfsn.containers import container_of
from npfsn.errors import AudioError


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAVEX", "PCM_16"),
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
        ("MAT4", "PCM_16"),
        ("MAT5", "FLOAT"),
        ("MPC2K", "PCM_16"),
        ("WVE", "ALAW"),
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


@pytest.mark.parametrize(
    ("container", "subtype", "missing"),
    [
        ("CAF", "ALAC_16", 30),
        ("WAV", "MS_ADPCM", 1),
        ("WAV", "IMA_ADPCM", 1),
        ("WAV", "GSM610", 2),  # a byte of padding, and one of sound
        ("WAV", "NMS_ADPCM_16", 1),
        ("W64", "MS_ADPCM", 1),
        ("AIFF", "IMA_ADPCM", 1),
        ("WAV", "G721_32", 1),
        ("AU", "G723_24", 1),
    ],
)
def test_blocks_of_samples_lack_no_byte(delay, tmp_path, container, subtype, missing):
    """Without it the last block is dropped, or noise."""
    src = write(tmp_path / "a.x", noise(20_000), 8000, subtype=subtype, container=container)
    content = src.read_bytes()
    src.write_bytes(content[:-missing])
    refuse(src, tmp_path / "b.wav", "cut short")
    src.write_bytes(content)
    audio.enhance_file(src, tmp_path / "b.wav", delay)


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
        assert enhance_file(src, tmp_path / "b.wav", overwrite=True).samples == 2001


def test_chunks_of_w64_files_are_padded_to_eight_bytes():
    stream = io.BytesIO()
    sf.write(stream, noise(2001), 16000, format="W64", subtype="PCM_16")
    content = stream.getvalue()
    name = content[content.index(b"data") :][:16].replace(b"data", b"junk")
    content += bytes(-len(content) % 8) + name + struct.pack("<Q", 4_000) + b"\1" * 3_976
    assert chunks.end(io.BytesIO(content), "W64", len(content) + 9) == len(content)


def test_au_files_of_the_other_byte_order_and_of_unknown_length(delay, tmp_path):
    src = tmp_path / "a.au"
    sf.write(src, noise(20_000), 16000, "PCM_16", "LITTLE", "AU")
    content = src.read_bytes()
    assert content.startswith(b"dns.")
    src.write_bytes(content[:8] + struct.pack("<I", 1_000) + content[12:])
    refuse(src, tmp_path / "b.au", "holds more sound than its header counts")
    for head, layout in ((b".snd", ">II"), (b"dns.", "<II")):  # from a pipe, more than 4 GiB
        file = io.BytesIO(head + struct.pack(layout, 24, 0xFFFFFFFF))
        assert chunks.end(file, "AU", 5 << 30) == 5 << 30


def test_a_nist_header_that_counts_too_few(delay, tmp_path):
    src = write(tmp_path / "a.sph", noise(20_000), subtype="PCM_16", container="NIST")
    content = src.read_bytes()
    assert b"sample_count -i 20000" in content
    src.write_bytes(content.replace(b"sample_count -i 20000", b"sample_count -i 10000"))
    refuse(src, tmp_path / "b.sph", "holds more sound than its header counts")


@pytest.mark.parametrize("container", COUNTS)
def test_what_follows_the_sound_is_no_damage(delay, tmp_path, container):
    """Tags, room that a recorder took for itself, a checksum without a name; chunks of a name."""
    order = ">I" if container in ("AIFF", "SVX") else "<I"
    chunk = b"LIST" + struct.pack(order, 40_000) + b"INFO" + bytes(range(1, 251)) * 160
    trailers = [b"TAG" + bytes(125), bytes(40_000), b"\xff" * 1_000]
    trailers += [name + bytes(range(256)) * 8 for name in (b"ID3", b"APETAGEX", b"LYRICSBEGIN")]
    trailers += [chunk[:40_008]] if container in ("WAV", "AIFF", "SVX", "RF64") else []
    for trailer in trailers:
        src = write(tmp_path / "a.x", noise(2_000), subtype="PCM_16", container=container)
        with src.open("ab") as file:
            file.write(trailer)
        if container in ("SVX", "W64"):  # libsndfile takes all of it for sound
            refuse(src, tmp_path / "c.wav", "more behind its sound|more sound than its header")
        else:
            report = enhance_file(src, tmp_path / "b.wav", delay, overwrite=True)
            assert report.samples == 2_000


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "CAF"])
def test_more_than_a_thousand_bytes_behind_the_sound_may_be_sound(delay, tmp_path, container):
    src = write(tmp_path / "a.x", noise(2_000), subtype="PCM_16", container=container)
    with src.open("ab") as file:
        file.write(b"\xff" * 1_100)
    refuse(src, tmp_path / "b.x", "holds more sound than its header counts")


def test_sound_behind_much_silence_is_sound(delay, tmp_path):
    """Room that a recorder reserved holds nothing to its end."""
    src = write(tmp_path / "a.wav", noise(2_000), subtype="PCM_16")
    with src.open("ab") as file:
        file.write(bytes(1 << 16) + b"\xff" * 9)
    refuse(src, tmp_path / "b.wav", "holds more sound than its header counts")


def test_an_ogg_file_without_its_end_is_refused(delay, tmp_path):
    """Even if all of its pages are whole: the last does not say that it is the last."""
    src = write(tmp_path / "a.ogg", noise(50_000), subtype="VORBIS", container="OGG")
    content = src.read_bytes()
    for end in (content.rfind(b"OggS"), -9):
        src.write_bytes(content[:end])
        refuse(src, tmp_path / "b.ogg", "cut short: its last page is missing")


def test_a_second_ogg_recording_that_is_cut_off_is_refused(delay, tmp_path):
    """Within its first page, which has no end."""
    src = write(tmp_path / "a.ogg", noise(20_000), subtype="VORBIS", container="OGG")
    content = src.read_bytes()
    src.write_bytes(content + content[:50])
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
        lambda pages: [*pages[:4], b"Oggs" + pages[4][4:], *pages[5:]],
    ],
    ids=["changed", "missing", "twice", "shorter", "unnamed"],
)
def test_a_damaged_page_of_an_ogg_file_is_no_silence(delay, tmp_path, subtype, damage):
    """It would be left out: a second is gone, what follows comes early, and none says so."""
    if subtype not in sf.available_subtypes("OGG"):
        pytest.skip(f"this libsndfile has no {subtype}")
    src = write(tmp_path / "a.ogg", noise(16_000 * 10), subtype=subtype, container="OGG")
    pages = [b"OggS" + page for page in src.read_bytes().split(b"OggS")[1:]]
    assert len(pages) > 8
    src.write_bytes(b"".join(damage(pages)))
    refuse(src, tmp_path / "b.ogg", "is damaged: a page of it is changed, missing or there twice")
    src.write_bytes(b"".join(pages) + b"TAG" + bytes(125))
    if sf.info(src).frames == (1 << 63) - 1:  # libsndfile 1.2.0 finds no end
        refuse(src, tmp_path / "b.ogg", "WAV file first, such as with `flac -d` or ffmpeg")
    else:
        audio.enhance_file(src, tmp_path / "b.ogg", delay)


def test_two_streams_of_one_ogg_recording_are_no_two_recordings(delay, tmp_path):
    """Some programs add a skeleton, whose first page lies beside the sound's."""
    src = write(tmp_path / "a.ogg", noise(20_000), subtype="VORBIS", container="OGG")
    content = src.read_bytes()
    end = content.index(b"OggS", 4)
    page = b"OggS\0\2" + bytes(8) + b"bone" + bytes(8) + b"\1\x40" + b"fishead\0".ljust(64, b"\0")
    page = page[:22] + intact._ogg_checksum(page) + page[26:]
    src.write_bytes(content[:end] + page + content[end:])
    assert enhance_file(src, tmp_path / "b.wav").samples == 20_000


def test_a_length_off_by_the_header_is_no_damage(delay, tmp_path):
    """Some recorders count the header in."""
    src = write(tmp_path / "a.wav", noise(20_000))
    content = bytearray(src.read_bytes())
    content[40:44] = len(content).to_bytes(4, "little")
    src.write_bytes(content)
    assert enhance_file(src, tmp_path / "b.wav").samples == 20_000


def test_more_than_a_header_is_missing(delay, tmp_path):
    """Thirty-two samples may be the header's; one more is sound."""
    src = write(tmp_path / "a.wav", noise(20_000))
    content = src.read_bytes()
    src.write_bytes(content[:-64])
    assert enhance_file(src, tmp_path / "b.wav").samples == 20_000 - 32
    src.write_bytes(content[:-66])
    refuse(src, tmp_path / "c.wav", "cut short")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x7FFF0000])
def test_a_length_unknown_to_its_writer_is_no_damage(delay, tmp_path, size):
    src = write(tmp_path / "a.wav", noise(20_000))
    content = bytearray(src.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    content[4:8] = (size - 36 if size < 0x80000000 else size).to_bytes(4, "little")
    src.write_bytes(content)
    assert enhance_file(src, tmp_path / "b.wav").samples == 20_000


def test_a_table_of_packets_that_counts_too_few(delay, tmp_path):
    """All that can be decoded is read: nothing is lost."""
    src = write(tmp_path / "a.caf", noise(20_000), subtype="ALAC_16", container="CAF")
    content = src.read_bytes()
    at = content.index(struct.pack(">q", 20_000), content.index(b"pakt"))
    src.write_bytes(content[:at] + struct.pack(">q", 10_000) + content[at + 8 :])
    assert enhance_file(src, tmp_path / "b.wav").samples == 20_000


@pytest.mark.parametrize("n", [8_200, 20_000])
def test_a_recording_that_was_never_closed_is_refused(delay, tmp_path, n):
    src = write(tmp_path / "a.wav", noise(n))
    content = bytearray(src.read_bytes())
    content[40:44] = bytes(4)
    src.write_bytes(content)
    refuse(src, tmp_path / "b.wav", "never closed")


def test_a_long_header_without_sound_is_no_damage(delay, tmp_path):
    """Recorders reserve room in it."""
    src = write(tmp_path / "a.wav", noise(0))
    content = src.read_bytes()
    room = b"JUNK" + struct.pack("<I", 8_192) + bytes(8_192)
    size = struct.pack("<I", len(content) + len(room) - 8)
    src.write_bytes(content[:4] + size + content[8:12] + room + content[12:])
    assert enhance_file(src, tmp_path / "b.wav").samples == 0


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
                report = enhance_file(src, tmp_path / "b.x", overwrite=True)
            except AudioError as error:
                assert "\n" not in str(error)
            else:
                assert read(tmp_path / "b.x")[0].shape[0] >= report.samples
                os.unlink(tmp_path / "b.x")
            assert os.listdir(tmp_path) == ["a.x"]


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "FLAC"])
def test_a_tag_in_front_is_no_damage(delay, tmp_path, container):
    """Some programs write ID3 tags as in MP3; libsndfile reads what begins behind them."""
    tag = b"ID3\3\0\0" + bytes([0, 0, 15, 127]) + bytes(2047)  # seven bits of its size in a byte
    src = write(tmp_path / "a.x", noise(20_000), subtype="PCM_16", container=container)
    content, suffix = src.read_bytes(), container.lower()
    src.write_bytes(tag + content)
    assert enhance_file(src, tmp_path / f"b.{suffix}", delay).samples == 20_000
    if container in ("WAV", "AIFF"):
        order = "<I" if container == "WAV" else ">I"
        name = b"bext" if container == "WAV" else b"MARK"
        note = name + struct.pack(order, 602) + bytes(602)
        head = content[:4] + struct.pack(order, len(content) + len(note) - 8)
        src.write_bytes(tag + head + content[8:] + note)
        enhance_file(src, tmp_path / f"c.{suffix}", delay)
        assert note in (tmp_path / f"c.{suffix}").read_bytes()
    src.write_bytes(tag + content + content)
    refuse(src, tmp_path / "b.x", "several recordings one after the other")
    if container == "AU":
        src.write_bytes(tag + content[:8] + struct.pack(">I", 38_000) + content[12:])
        refuse(src, tmp_path / "b.x", "holds more sound than its header counts")
    src.write_bytes((tag + content)[: len(content) // 2])
    refuse(src, tmp_path / "b.x", "cut short|damaged")


@pytest.mark.parametrize(
    "name", "a.ogg a.opus a.mp3 a.flac a.wav a.aiff a.svx a.au a.caf a.rf64 a.w64 a.voc".split()
)
def test_recordings_one_after_the_other_are_not_cut(delay, tmp_path, name):
    """Libsndfile reads the first of them and says nothing of the others, or reads nothing."""
    x = noise(48000, 1)
    options = {"format": container_of(name[2:])}
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


def test_flac_files_one_after_the_other_without_a_comment(delay, tmp_path):
    """Their first block is their last one."""
    parts = []
    for size in (20000, 30000):
        path = write(tmp_path / "a.flac", noise(size))
        data = path.read_bytes()
        at = 4
        while not data[at] & 0x80:
            at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        sound = at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        parts.append(data[:4] + b"\x80" + data[5:42] + data[sound:])
        path.write_bytes(parts[-1])
        enhance_file(path, tmp_path / f"{size}.flac")
        assert read(tmp_path / f"{size}.flac")[0].shape[0] == size
    path.write_bytes(b"".join(parts))
    refuse(path, tmp_path / "b.flac", "several recordings one after the other")


def test_flac_of_unknown_length(delay, tmp_path):
    sf.write(tmp_path / "a.flac", noise(20000, 1), 16000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # the length's 36 bits, in the block that comes first
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(AudioError, match="does not say how long it is"):
        enhance_file(tmp_path / "a.flac", tmp_path / "b.flac")


def test_a_second_flac_is_found_wherever_it_starts():
    """Also across two blocks, and by reading: of a mapped file, a bad disk ends the process."""
    start = b"fLaC\0\0\0\x22"
    for at in ((1 << 20) - 9, *range((1 << 20) - 8, (1 << 20) + 2)):
        assert intact._is_followed(io.BytesIO(start.ljust(at, b"-") + start))
        assert not intact._is_followed(io.BytesIO(b"".ljust(at, b"-") + start))

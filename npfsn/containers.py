"""Sound file formats: their suffixes, the bits of their samples, and which one is written."""

from __future__ import annotations

from pathlib import Path

import soundfile as sf

from .errors import AudioError

#: Bits per sample of integer subtypes. Companded and ADPCM codes stand for 16-bit samples. Subtypes
#: not listed store floats or are lossy (`LARGEST`).
BITS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "DPCM_8": 8,
    "DPCM_16": 16,
    **dict.fromkeys(
        "ULAW ALAW IMA_ADPCM MS_ADPCM GSM610 G721_32 G723_24 G723_40 VOX_ADPCM "
        "NMS_ADPCM_16 NMS_ADPCM_24 NMS_ADPCM_32".split(),
        16,
    ),
}

#: Largest sample that a lossy encoder keeps. Larger ones cost Vorbis the sound around them; because
#: of them LAME ends the process.
LARGEST = {"OPUS": 1.0, "VORBIS": 1e3, "MPEG_LAYER_III": 1e3}

# Suffix -> soundfile's name of the container, where the two differ.
_ALIASES = {
    "aif": "AIFF",
    "aifc": "AIFF",
    "iff": "SVX",
    "oga": "OGG",
    "opus": "OGG",
    "sf": "IRCAM",
    "sph": "NIST",
    "snd": "AU",
    "wave": "WAV",
}

#: Suffixes (lower case, with the dot) of the files taken from a folder.
AUDIO_SUFFIXES = frozenset(
    "." + name
    for name in (
        "aif aifc aiff au avr caf flac iff ircam mp1 mp2 mp3 nist oga ogg opus paf pvf rf64 sd2 "
        "sds sf snd sph svx voc w64 wav wave wavex wve xi"
    ).split()
)

#: Suffixes of sound and video that libsndfile does not read.
FOREIGN_SUFFIXES = frozenset(
    "." + name
    for name in (
        "3g2 3gp aac ac3 amr ape avi dsf dts m4a m4b m4v mkv mov mp4 mpc ra webm wma wv"
    ).split()
)

#: Suffixes of raw samples without a header, including those of ffmpeg and SoX.
RAW_SUFFIXES = frozenset("." + name for name in "raw pcm s16 s16le sw f32 f32le".split())

#: Suffixes that can be written, the usual ones, as messages name them.
WRITABLE = ".wav, .flac, .ogg, .opus, .mp3, .aiff or .caf"

# What is written for subtypes that libsndfile 1.2.2 reads well, but whose encoder damages the ends
# of some sounds and corrupts the heap with long ones. Nothing is lost by it.
_INSTEAD = {"ALAC_16": "PCM_16", "ALAC_20": "PCM_24", "ALAC_24": "PCM_24"}

# Containers that libsndfile writes as two files, which cannot be renamed in one step.
_TWO_FILES = ("SD2",)

# Bytes of a sample, and of the sound from which on a container cannot count them: most do so in 32
# bits, VOC in 24 and with a header of up to 13 bytes. SDS counts samples in 21 bits, with those
# that fill its last block. libsndfile would write what is left of the number.
_SAMPLE_BYTES = {
    **dict.fromkeys(("PCM_S8", "PCM_U8", "ULAW", "ALAW"), 1),
    **{"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8},
}
_TOO_MANY_BYTES = {
    **dict.fromkeys(("WAV", "WAVEX", "AIFF", "AU", "SVX", "NIST", "IRCAM"), 1 << 32),
    "VOC": (1 << 24) - 13,
}
_TOO_MANY_SDS = (1 << 21) - 60

# Beyond these libsndfile does not refuse to write Vorbis: a segmentation fault ends the process.
_VORBIS_HZ, _VORBIS_CHANNELS = 200_000, 255
# Channels of which these encoders take the last for that of a surround set which holds low
# frequencies alone, and cut the others off. Vorbis does so around the rates of films and discs.
_WITH_BASS = {"OPUS": (6, 7, 8), "VORBIS": (6,)}
_VORBIS_BASS_HZ = range(40_000, 50_001)


def container_of(name: str) -> str | None:
    """Return soundfile's name of the container to write for a suffix (without dot), or None."""
    container = _ALIASES.get(name, name.upper())
    writable = container in sf.available_formats() and container not in (*_TWO_FILES, "RAW")
    return container if writable else None


def same_format(name: str, other: str) -> bool:
    """Whether the same is written for two suffixes (without dot), such as aif and aiff."""
    alike = (name == "opus") == (other == "opus")  # the container is Ogg's, as of ogg
    return alike and container_of(name) == container_of(other)


def target_format(source: sf.SoundFile, src: Path, dst: Path) -> tuple[str, str, str]:
    """Choose container, subtype and byte order of the output."""
    kept = _INSTEAD.get(source.subtype, source.subtype)
    # A WAV may hold MPEG audio: libsndfile claims to write that, but fails.
    coded = source.subtype.startswith("MPEG_") and source.format != "MP3"
    if dst.suffix.lower() == src.suffix.lower() and not coded:
        container, subtype = source.format, kept
        if container not in _TWO_FILES:
            # libsndfile reads a WAVEX file of the other byte order, and writes none.
            for endian in (source.endian, "FILE"):
                if sf.check_format(container, subtype, endian):
                    return container, subtype, endian
        raise AudioError(
            f"{container} with {subtype} samples, as in {src}, can be read but not written: "
            "choose another container, for instance with --format wav"
        )

    name = dst.suffix[1:].lower()
    container = container_of(name)
    if container is None:
        what = f"{dst.suffix} cannot be written" if name else "its name has no suffix"
        raise AudioError(f"cannot write {dst}: {what}; expected one such as {WRITABLE}")
    # Bits to keep, at least: an MP3 becomes 16 bits, a float WAV becomes a 24-bit FLAC.
    bits = BITS.get(kept, 16 if kept not in ("FLOAT", "DOUBLE") else 24)
    wanted = [kept]
    if name == "opus":  # the container is Ogg, which may hold other codecs
        wanted = ["OPUS"]
    elif coded or (container != source.format and source.subtype.startswith("MPEG_")):
        wanted = []
    # If no subtype has that many bits, take the one with most.
    integers = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32")
    wanted += [each for each in integers if BITS[each] >= bits]
    wanted += [each for each in reversed(integers) if 8 < BITS[each] < bits]
    wanted.append(sf.default_subtype(container))  # which every container can hold
    subtype = next(each for each in wanted if sf.check_format(container, each))
    n_bytes = _SAMPLE_BYTES.get(subtype, 0)
    size = source.frames * source.channels * n_bytes
    limit = _TOO_MANY_SDS * n_bytes if container == "SDS" else _TOO_MANY_BYTES.get(container)
    if limit and size >= limit:
        raise AudioError(
            f"cannot write {dst}: {size >> 20:,} MiB are more than a {container} file can hold; "
            "choose --format w64 or rf64"
        )
    return container, subtype, "FILE"


def check_encoder(source: sf.SoundFile, subtype: str, dst: Path) -> None:
    """Refuse what would crash an encoder, and a channel of which it would keep only the bass."""
    rate, channels = source.samplerate, source.channels
    bass = subtype != "VORBIS" or rate in _VORBIS_BASS_HZ
    if channels in _WITH_BASS.get(subtype, ()) and bass and source.subtype != subtype:
        raise AudioError(
            f"cannot write {dst} as {subtype.title()}: of the last of {channels} channels the "
            "encoder would keep low frequencies only: choose another container, for instance with "
            "--format flac"
        )
    if subtype == "VORBIS" and (rate > _VORBIS_HZ or channels > _VORBIS_CHANNELS):
        raise AudioError(
            f"cannot write {dst} as Vorbis, channels: {channels}, {rate} Hz "
            f"(at most {_VORBIS_HZ} Hz and {_VORBIS_CHANNELS} channels): choose another container, "
            "for instance with --format wav"
        )

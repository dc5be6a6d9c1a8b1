#!/bin/sh
# Run Python on an emulated 64-bit ARM, to see the NEON code at work where there is no such machine:
#
#     tools/on_arm.sh FOLDER -m pytest tests/test_kernels.py tests/test_golden.py
#
# Needs Debian, `apt-get install qemu-user-static`, once `dpkg --add-architecture arm64` with
# `apt-get update`, and Python 3.11 with pip. The first run fills FOLDER (400 MB) with Python and its
# packages for ARM. Numbers are right and times mean nothing; compiling takes minutes. What starts
# processes of its own needs a kernel that knows qemu (binfmt_misc). Numba sees no features of the
# emulated CPU: NUMBA_CPU_NAME=neoverse-n1 NUMBA_CPU_FEATURES=+neon,+dotprod names them.
set -eu
folder=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
if [ ! -d "$folder/site" ]; then
    mkdir -p "$folder/root" "$folder/packages"
    folder=$(cd "$folder" && pwd)
    cd "$folder/packages"
    for name in libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 \
        libsqlite3-0 libuuid1 libcrypt1 \
        python3.11 python3.11-minimal libpython3.11-stdlib libpython3.11-minimal; do
        apt-get download "$name:arm64"
    done
    for package in *.deb; do
        dpkg-deb -x "$package" ../root
    done
    python3 -m pip install --quiet --target ../site --only-binary :all: --python-version 3.11 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        numpy numba scipy soundfile pytest hypothesis
fi
folder=$(cd "$folder" && pwd)
cd "$here"
export PYTHONPATH="$here:$here/tests:$folder/site" NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$folder/cache}"
exec qemu-aarch64-static -L "$folder/root" "$folder/root/usr/bin/python3.11" "$@"

"""Types of argparse for output files, which are checked before hours of work, not after."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path


def result_file(text: str) -> Path:
    """Check the name of a file to be written; a type for argparse."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, expected a file to be written")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: is its folder there?")
    return path


def picture_file(text: str) -> Path:
    """Check the name of a picture to be drawn; a type for argparse."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("pictures need matplotlib: pip install matplotlib")
    if Path(text).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a name that ends in .png, .svg or .pdf")
    return result_file(text)

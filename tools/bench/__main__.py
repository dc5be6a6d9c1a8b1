"""Measure side by side with the peers, and render docs/benchmark.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ..results import picture_file, result_file

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmark.md"


def main() -> int:
    """Measure, or render what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    parser.add_argument("--render", metavar="JSON", help="only render an earlier result")
    parser.add_argument(
        "--json", metavar="FILE", type=result_file, help="also write the figures to FILE"
    )
    parser.add_argument(
        "--page",
        metavar="FILE",
        type=result_file,
        help="where the page goes (default: docs/benchmark.md, with --quick standard output)",
    )
    parser.add_argument(
        "--picture",
        metavar="FILE",
        type=picture_file,
        help="also draw the times of the contenders; the page shows it",
    )
    args = parser.parse_args()
    if args.page is None and not args.quick:
        args.page = PAGE
    place = None
    if args.picture:
        seen_from = args.page.parent if args.page else None
        place = Path(os.path.relpath(args.picture, seen_from)).as_posix()
    from .picture import draw
    from .report import render

    if args.render:
        try:
            result = json.loads(Path(args.render).read_text())
            page = render(result, place)
        except (OSError, ValueError, LookupError, TypeError) as error:
            parser.exit(1, f"{args.render} is no result of tools.bench: {error}\n")
    else:
        # One thread each, before anything starts its threads.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"
        try:
            from .measure import measure
        except ModuleNotFoundError as error:
            parser.exit(1, f"tools.bench needs {error.name}: pip install -e '.[bench]'\n")

        result = measure(args.quick, lambda text: print(text, file=sys.stderr, flush=True))
        result["command"] = " ".join(["python -m tools.bench", *sys.argv[1:]])
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
        page = render(result, place)
    if args.page is None:
        print(page, end="")
    else:
        args.page.write_text(page)
    if args.picture:
        draw(result, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())

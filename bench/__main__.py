# SPDX-License-Identifier: Apache-2.0
"""The command `python -m bench`."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import against, memory, ops, page, peers, results, table
from bench.cases import Settings
from diffiso.io import write_file

MOST_THREADS = 1024  # far more, and OpenMP ends the process


def a_path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return Path(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Times the ops beside their peers, in one process and in turn.",
        epilog="bench/README.md tells how to read the tables.",
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help="which ops (default: all; see --list)")
    parser.add_argument(
        "--peers", nargs="*", metavar="PEER",
        help="beside these packages only, or none (default: all that are installed)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads of everybody (default: all cores)")
    parser.add_argument(
        "--runs", type=int, help="counted runs of each (default: 7; quick: 3; smoke: 1)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="half the sizes, few runs, no memory: a minute or so"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes: does everything still run"
    )
    parser.add_argument(
        "--json", type=a_path, metavar="PATH",
        help="also write what was measured: one .json file, or PATH/<device>/<op>.json",
    )  # fmt: skip
    parser.add_argument(
        "--html",
        type=a_path,
        metavar="FILE",
        help="also write a page with plots that needs no other",
    )
    parser.add_argument(
        "--markdown", type=a_path, metavar="PATH",
        help="measure nothing: print kept results, a .json file or those below a folder",
    )  # fmt: skip
    parser.add_argument(
        "--kept", type=a_path, metavar="PATH", help="measure nothing: make the page of kept results"
    )
    parser.add_argument(
        "--scaling", action="store_true", help="also follow how times grow with sizes and threads"
    )
    parser.add_argument(
        "--against", type=a_path, metavar="PATH",
        help="compare with kept results: exit with 1 where diffiso lost to a peer",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=float, default=0.25, help="by what share it may (default: 0.25)"
    )
    parser.add_argument("--list", action="store_true", help="list the ops and leave")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.ops) - set(ops.OPS))
    if unknown:
        parser.error(f"OP must be one of {', '.join(ops.OPS)}, got {', '.join(unknown)}")
    try:
        peers.choose(options.peers, options.device)
    except ValueError as error:
        parser.error(f"--peers: {error}")
    for name in ("threads", "runs"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be positive, got {value}")
    if options.threads is not None and options.threads > MOST_THREADS:
        parser.error(f"--threads must be at most {MOST_THREADS}, got {options.threads}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch sees, got none")
    if not 0 <= options.margin < math.inf:
        parser.error(f"--margin must be at least 0, got {options.margin:g}")
    for name in ("markdown", "kept", "against"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            parser.error(f"--{name} must be a file or a folder that is there, got {path}")
    if options.kept is not None and options.html is None:
        parser.error("--kept goes with --html, got none")
    for name, suffix in (("json", ".json"), ("html", ".html")):
        path = getattr(options, name)
        if path is not None and path.suffix == suffix:
            if not path.parent.is_dir():
                parser.error(f"--{name}: must be a file in a folder that is there, got {path}")
            if trouble := results.unwritable(path):
                parser.error(f"--{name}: {trouble}")
        elif path is not None and name == "html":
            parser.error(f"--{name}: must be a file that ends in {suffix}, got {path}")
    if options.kept is not None and options.markdown is not None:
        parser.error("--kept must be given without --markdown, got both")
    options.ops = list(dict.fromkeys(options.ops)) or list(ops.OPS)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        run(parse(arguments))
    except (OSError, ValueError) as error:
        sys.exit(f"python -m bench: {error}")


def run(options: argparse.Namespace) -> None:
    if options.list:
        for name in ops.OPS:
            print(f"{name:24} {ops.summary(name)}")
        return
    if (path := options.markdown or options.kept) is not None:
        records = results.read(path, options.ops)
        if not records:
            raise ValueError(f"{path}: must hold results of {', '.join(options.ops)}, got others")
        if options.kept is None:
            print(table.markdown(records))
        else:
            print(f"wrote {write_file(options.html, page.page(records).encode())}")
        return
    threads = options.threads or results.cores()
    torch.set_num_threads(threads)
    runs = options.runs or (1 if options.smoke else 3 if options.quick else 7)
    settings = Settings(torch.device(options.device), threads, runs, options.smoke, options.quick)
    about = results.about(settings, options.peers)
    if options.json is not None:
        results.check_targets(options.json, options.ops, about)
    kept = None
    if options.against is not None:
        kept = results.read(options.against, options.ops)
        kept = against.chosen(kept, about, options.against)
    announce(settings)
    records = []
    for op in options.ops:
        found: memory.Found = {}
        if not settings.quick and op not in ops.WITHOUT_MEMORY:
            found = memory.measure(op, settings, options.peers)
        record = results.measure(op, settings, about, found, growth=options.scaling)
        records.append(record)
        if op == options.ops[0]:
            print(table.headline(record))
        print(table.console(record), flush=True)
        if options.json is not None:  # now: what is measured stays, whatever comes after it
            path = (
                results.write_json(records, options.json)
                if options.json.suffix == ".json"
                else results.write(record, options.json)
            )
            print(f"\nwrote {path}")
    if options.html is not None:
        print(f"\nwrote {write_file(options.html, page.page(records).encode())}")
    trouble = [f"failed: {line}" for line in results.failed(records)]
    trouble += [f"differs: {line}" for line in results.wrong(records)]
    if kept is not None:
        compared = against.compare(records, kept, options.margin)
        print("\n".join(["", *table.aligned(against.rows(compared))]))
        trouble += against.trouble(compared, options.against)
    if trouble:
        sys.exit("\n".join(trouble))


def announce(settings: Settings) -> None:
    """Say which peers are missing, and how to get them."""
    for package in peers.missing(settings):
        needs = f"; it needs {package.needs}" if package.needs else ""
        print(f"left out, not installed: {package.name} ({package.install}{needs})")


if __name__ == "__main__":
    main()

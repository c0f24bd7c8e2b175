# SPDX-License-Identifier: Apache-2.0
"""The command `python -m bench`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import memory, ops, page, peers, results, table
from bench.cases import Settings
from diffiso.io import write_file


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Times the ops beside their peers, in one process and in turn.",
        epilog="bench/README.md tells how to read the tables.",
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help="which ops (default: all; see --list)")
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
        "--json", type=Path, metavar="PATH",
        help="also write what was measured: one .json file, or PATH/<device>/<op>.json",
    )  # fmt: skip
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with plots that needs no other"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="PATH",
        help="measure nothing: print kept results, a .json file or those below a folder",
    )  # fmt: skip
    parser.add_argument(
        "--kept", type=Path, metavar="PATH", help="measure nothing: make the page of kept results"
    )
    parser.add_argument("--list", action="store_true", help="list the ops and leave")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.ops) - set(ops.OPS))
    if unknown:
        parser.error(f"OP must be one of {', '.join(ops.OPS)}, got {', '.join(unknown)}")
    for name in ("threads", "runs"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be positive, got {value}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch sees, got none")
    for name in ("markdown", "kept"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            parser.error(f"--{name} must be a file or a folder that is there, got {path}")
    if options.kept is not None and options.html is None:
        parser.error("--kept goes with --html, got none")
    for name, suffix in (("json", ".json"), ("html", ".html")):
        path = getattr(options, name)
        if path is not None and (trouble := results.unwritable(path, suffix)):
            parser.error(f"--{name}: {trouble}")
    options.ops = options.ops or list(ops.OPS)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.list:
        for name, cases in ops.OPS.items():
            summary = (sys.modules[cases.__module__].__doc__ or "").partition("\n")[0]
            print(f"{name:24} {summary}")
        return
    if options.markdown is not None:
        print(table.markdown(results.read(options.markdown, options.ops)))
        return

    if options.kept is not None:
        kept = page.page(results.read(options.kept, options.ops))
        print(f"wrote {write_file(options.html, kept.encode())}")
        return

    threads = options.threads or results.cores()
    torch.set_num_threads(threads)
    runs = options.runs or (1 if options.smoke else 3 if options.quick else 7)
    settings = Settings(torch.device(options.device), threads, runs, options.smoke, options.quick)
    about = results.environment(settings)
    announce(about["peers"])
    scratch: memory.Scratch = {}
    if settings.on_cpu and not settings.quick:
        measured = [op for op in options.ops if op not in ops.WITHOUT_MEMORY]
        scratch = memory.measure(measured, settings)
        if measured and not scratch:
            print("scratch memory is not measured: it takes Linux's /proc/self/clear_refs")
    records = []
    for op in options.ops:
        record = results.measure(op, settings, about, scratch)
        records.append(record)
        if op == options.ops[0]:
            print(table.headline(record))
        print(table.console(record), flush=True)
        if options.json is not None and options.json.suffix != ".json":
            print(f"\nwrote {results.write(record, options.json)}")
    if options.json is not None and options.json.suffix == ".json":
        print(f"\nwrote {results.write_json(records, options.json)}")
    if options.html is not None:
        print(f"\nwrote {write_file(options.html, page.page(records).encode())}")


def announce(versions: dict[str, str | None]) -> None:
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        print(f"peers left out, not installed: {', '.join(missing)}")
    for package in peers.PACKAGES:
        if package.name in missing and package.needs:
            print(f"{package.name} also needs {package.needs}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The page of a benchmark: whole, alone, and as a browser shows it."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from bench import page
from bench.__main__ import main


def record(op, differs=0.0):
    def contender(name, kind, median):
        difference = {"name": "faces", "kind": "number", "value": differs, "allowed": 0.0}
        return {
            "contender": name, "kind": kind, "median": median, "min": 0.9 * median,
            "max": 1.2 * median, "runs": 7, "outputs": {"vertices": 12}, "ratio": median / 1e-3,
            "share_of_bound": 2e-4 / median, "scratch_bytes": 3, "scratch_bytes_per_sample": 0.5,
            "differences": [difference | {"agrees": differs == 0}] * (kind == "other"),
        }  # fmt: skip

    case = {
        "case": "sphere <64^3>", "unit": "node", "samples": 10, "calls": 1,
        "bound": {"what": "inputs read once", "bytes": 400, "median": 2e-4},
        "contenders": [contender("diffiso", "ours", 1e-3), contender("a & b", "other", 5e-3)],
    }  # fmt: skip
    hardware = {"processor": "Some CPU", "cores": 2, "gpu": None, "gpu_memory_bytes": None}
    info = {"version": "0.1.0", "simd": "avx2", "torch_version": "2.13.0"}
    return {
        "op": op,
        "settings": {"device": "cpu", "threads": 2, "runs": 7, "smoke": False, "quick": False},
        "environment": {"diffiso": info, "peers": {"vtk": "9.7", "b": None}, "hardware": hardware},
        "cases": [case],
    }


class Reader(HTMLParser):
    """What stands in cells, what links where, and that all that opens closes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.links, self.images = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [given[name] for name in ("href", "src") if name in given]
        if tag == "img":
            self.images.append(given)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_page_is_whole_and_needs_nothing_else():
    text = page.page([record("trace"), record("shade")])
    read = Reader(text)
    assert all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in read.links)
    assert {"#trace", "#shade"} < set(read.links)
    assert not re.search(r"<script|@import|url\(", text)
    assert read.cells.count("a & b") == 2
    assert "sphere &lt;64^3&gt;" in text
    assert len(read.images) == 2
    picture = base64.b64decode(read.images[0]["src"].partition(",")[2]).decode()
    assert "<svg" in picture
    assert text == page.page([record("trace"), record("shade")])


def test_page_shows_who_differs():
    text = page.page([record("trace", differs=0.25)])
    assert "faces: number 0.25, allowed 0" in text
    # Beside outputs that differ nobody is faster.
    assert "fastest other / this" not in text
    assert "fastest other / this" in page.page([record("trace")])


def test_page_makes_those_who_differ_visible():
    text = page.page([record("trace", differs=0.25)])
    assert "</h3>\n<p>a &amp; b differs: faces: number 0.25, allowed 0</p>" in text
    assert " differs: " not in page.page([record("trace")])

    def hatched(differs):
        (picture,) = Reader(page.page([record("trace", differs)])).images
        return b"<pattern" in base64.b64decode(picture["src"].partition(",")[2])

    assert hatched(0.25)
    assert not hatched(0.0)


def test_page_of_several_machines():
    others = [record("trace"), record("shade"), record("trace")]
    for each in others:
        each["environment"]["hardware"] = {"processor": "Another <CPU>", "gpu": None}
    text = page.page([record("trace"), *others])
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(set(ids)) == len(ids) == 4
    assert {link for link in Reader(text).links if link[0] == "#"} == {f"#{name}" for name in ids}
    assert re.findall(r"<h2[^>]*>(.*)</h2>", text) == [
        "trace, Some CPU, 2 threads",
        *[f"{op}, Another &lt;CPU&gt;, 2 threads" for op in ("trace", "shade", "trace")],
    ]
    assert ">trace</h2>" in page.page([record("trace")])


def test_page_of_kept_results(tmp_path, capsys):
    (tmp_path / "all.json").write_text(json.dumps([record("trace"), record("shade")]))
    main(["--kept", str(tmp_path / "all.json"), "--html", str(tmp_path / "all.html")])
    assert "wrote" in capsys.readouterr().out
    assert "#shade" in Reader((tmp_path / "all.html").read_text()).links


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "page.txt"], "--html: must be a file that ends in .html, got page.txt"),
        (["--html", "none/page.html"], "--html: must be a file in a folder that is there"),
        (["--json", "none/all.json"], "--json: must be a file in a folder that is there"),
        (["--kept", "."], "--kept goes with --html, got none"),
        (["--kept", "none"], "--kept must be a file or a folder that is there, got none"),
    ],
)
def test_outputs_are_looked_at_before_anything_runs(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("bench.results.measure", None)
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.browser
def test_a_browser_shows_it_without_complaint(tmp_path):
    (tmp_path / "page.html").write_text(page.page([record("trace"), record("shade")]))
    command = [
        shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
        "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,900", f"--screenshot={tmp_path / 'page.png'}",
        f"file://{tmp_path / 'page.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    pixels = pytest.importorskip("PIL.Image").open(tmp_path / "page.png").convert("RGB")
    assert pixels.size == (1200, 900)
    colors = {color for _, color in pixels.getcolors(2**20)}
    for ink in (page.INK["ours"], page.INK["other"]):
        assert tuple(bytes.fromhex(ink[1:])) in colors

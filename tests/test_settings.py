# SPDX-License-Identifier: Apache-2.0
"""Settings: dataclass, file and flags say the same."""

import argparse
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

import jsonargparse
import pytest

from diffiso import run
from diffiso.run import check_settings
from diffiso.run.settings import each_setting, explain, read_values


@dataclass(frozen=True)
class NetSettings:
    """The network.

    Attributes:
        width: Neurons of a layer.
        skips: Layers that see the input again.
    """

    width: int = 64
    skips: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self, positive=["width", "skips"])


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    Attributes:
        source: What to fit.
        steps: Optimisation steps, 100% of them.
        rate: Learning rate.
        device: Where.
        name: What to call it.
        save: Write files.
        target: Two radii.
        net: The network.
    """

    source: str
    steps: int | None = None
    rate: float = 0.5
    device: Literal["cpu", "cuda"] = "cpu"
    name: str | None = None
    save: bool = True
    target: tuple[float, float] = (0.5, 0.25)
    net: NetSettings = field(default_factory=lambda: NetSettings(width=32))

    def __post_init__(self) -> None:
        check_settings(self, positive=["steps"], not_negative=["rate"], finite=["target"])


FULL = FitSettings("a.obj", 7, 1e-3, "cuda", "a: b", False, (1.0, 2.0), NetSettings(8, (2, 4)))


def from_flags(*flags, cls=FitSettings):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    run.add_settings(parser, cls, positional=["source"], short={"steps": "-n"})
    return run.settings_from(parser.parse_args(list(flags)), cls)


def from_file(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return run.read_settings(FitSettings, path)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_files_return_what_was_written(tmp_path, suffix):
    path = run.write_settings(tmp_path / f"fit{suffix}", FULL)
    assert run.read_settings(FitSettings, path) == FULL


def test_flags_file_and_python_say_the_same(tmp_path):
    assert from_flags(
        "a.obj", "-n", "7", "--rate", "1e-3", "--device=cuda", "--name", "a: b", "--no-save",
        "--target", "[1,2]", "--net.width", "8", "--net.skips", "[2, 4]",
    ) == FULL  # fmt: skip
    yaml = "source: a.obj\nsteps: 7\nrate: 1e-3\ndevice: cuda\nname: 'a: b'\nsave: false\n"
    yaml += "target: [1, 2]\nnet: {width: 8, skips: [2, 4]}\n"
    assert from_file(tmp_path / "fit.yaml", yaml) == FULL
    toml = 'source = "a.obj"\nsteps = 7\nrate = 1e-3\ndevice = "cuda"\nname = "a: b"\n'
    toml += "save = false\ntarget = [1, 2]\n[net]\nwidth = 8\nskips = [2, 4]\n"
    assert from_file(tmp_path / "fit.toml", toml) == FULL


def test_what_is_not_named_keeps_its_default(tmp_path):
    default = FitSettings("a.obj")
    assert from_flags("a.obj") == default
    assert from_file(tmp_path / "fit.json", {"source": "a.obj"}) == default
    assert from_file(tmp_path / "fit.yaml", "source: a.obj\nnet:\n") == default
    # The default of a dataclass within is the owner's, not its own.
    skipping = dataclasses.replace(default, net=NetSettings(32, (1,)))
    assert from_flags("a.obj", "--net.skips", "[1]") == skipping
    assert from_file(tmp_path / "fit.json", {"source": "a.obj", "net": {"skips": [1]}}) == skipping
    assert {s.key: s.default for s in each_setting(FitSettings)}["net.width"] == 32


def test_a_report_is_a_settings_file(tmp_path):
    path = run.Report("fit", FULL).write(tmp_path / "run.json")
    assert run.read_settings(FitSettings, path) == FULL
    assert read_values(FitSettings, path, "fit")["steps"] == 7
    with pytest.raises(ValueError, match="must be those of learn, got a report of fit"):
        read_values(FitSettings, path, "learn")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "a", "stepz": 3}, "there is no setting stepz, did you mean steps?"),
        ({"source": "a", "net": {"widht": 3}}, "no setting net.widht, did you mean net.width?"),
        ({"source": "a", "qqq": {"width": 3}}, "there is no setting qqq"),
        ({"source": "a", "steps": "x"}, "steps must be a whole number or null, got 'x'"),
        ({"source": "a", "steps": 1.5}, "steps must be a whole number or null, got '1.5'"),
        ({"source": "a", "steps": True}, "steps must be a whole number or null, got 'True'"),
        ({"source": "a", "rate": "x"}, "rate must be a number, got 'x'"),
        ({"source": "a", "device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
        ({"source": "a", "save": "maybe"}, "save must be true or false, got 'maybe'"),
        ({"source": 3}, "source must be text, got '3'"),
        ({"source": "a", "target": [1]}, "target must be a list of 2, each a number, got '[1]'"),
        ({"source": "a", "net": {"skips": [1, "b"]}}, "net.skips must be a list, each a whole"),
        ({"source": "a", "steps": 0}, "FitSettings: steps must be positive, got 0"),
        ({"source": "a", "net": {"width": -1}}, "NetSettings: width must be positive, got -1"),
        ({"steps": 3}, "source is missing, it has no default"),
        ([1, 2], "settings must be names and values, got list"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_mistakes_in_files_are_named(tmp_path, data, message):
    with pytest.raises(ValueError, match=r"fit\.json: ") as caught:
        from_file(tmp_path / "fit.json", data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: settings file not found"):
        run.read_settings(FitSettings, tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"fit\.ini: name must end in \.json, .*got '\.ini'"):
        from_file(tmp_path / "fit.ini", "")
    for suffix, text in ((".yaml", "a: [1"), (".toml", "a = "), (".json", "\udc00")):
        path = tmp_path / f"fit{suffix}"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match=f"cannot be read as {suffix[1:].upper()}"):
            run.read_settings(FitSettings, path)
    with pytest.raises(ValueError, match=r"name must end in \.json, \.yaml, \.yml, got '\.toml'"):
        run.write_settings(tmp_path / "fit.toml", FULL)
    with pytest.raises(TypeError, match="cls must be a dataclass, got <class 'int'>"):
        run.read_settings(int, run.write_settings(tmp_path / "fit.json", FULL))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "3"}, "FitSettings: steps must be a whole number or null, got '3'"),
        ({"steps": 1.0}, "steps must be a whole number or null, got 1.0"),
        ({"steps": 10**20}, f"steps must be below 2^63, got {10**20}"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"rate": float("nan")}, "rate must be finite, got nan"),
        ({"rate": -0.1}, "rate must not be negative, got -0.1"),
        ({"target": (1.0, float("inf"))}, "target must be finite, got (1.0, inf)"),
        ({"target": [1.0, 2.0]}, "target must be a list of 2, each a number, got [1.0, 2.0]"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
        ({"net": 3}, "net must be NetSettings, got 3"),
        ({"net": None}, "net must be NetSettings, got None"),
        ({"save": 1}, "save must be true or false, got 1"),
        ({"name": 1}, "name must be text or null, got 1"),
    ],
)
def test_python_is_told_the_same(changes, message):
    with pytest.raises(ValueError, match="FitSettings: ") as caught:
        dataclasses.replace(FULL, **changes)
    assert message in str(caught.value)


def test_lists_are_checked_number_by_number():
    with pytest.raises(ValueError, match=r"NetSettings: skips must be positive, got \(1, 0\)"):
        NetSettings(skips=(1, 0))


def test_flags_explain_themselves():
    plain = argparse.HelpFormatter
    parser = jsonargparse.ArgumentParser(prog="fit", formatter_class=plain)
    run.add_settings(parser, FitSettings, positional=["source"], metavars={"source": "MESH"})
    text = " ".join(parser.format_help().split())
    assert "MESH What to fit" in text
    assert "--steps INT Optimisation steps, 100% of them" in text
    assert "--rate NUMBER Learning rate (0.5)" in text
    assert "--device {cpu,cuda} Where (cpu)" in text
    assert "--save, --no-save Write files (yes)" in text
    assert "--target [NUMBER,NUMBER] Two radii ([0.5, 0.25])" in text
    assert "net (the network):" in text
    assert "--net.width INT Neurons of a layer (32)" in text
    assert "--net.skips [INT,...] Layers that see the input again (none)" in text


def test_other_messages_are_left_as_they_are():
    assert explain("unrecognized\n  arguments: --x", FitSettings) == "unrecognized arguments: --x"

# SPDX-License-Identifier: Apache-2.0
"""Every example in the README and in the docstrings of public functions runs."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import diffiso

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# What needs optional packages is documented like everything else, and the test extra brings them.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(diffiso.__path__, "diffiso.")
    if not module.name.rpartition(".")[2].startswith("_")
)


def public_objects(module):
    """The public functions and classes that a module defines, and the public methods of those."""
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield f"{module.__name__}.{name}", thing
        if inspect.isclass(thing):
            for key, member in sorted(vars(thing).items()):
                member = getattr(member, "__func__", member)
                if not key.startswith("_") and inspect.isfunction(member):
                    yield f"{module.__name__}.{name}.{key}", member


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for label, thing in public_objects(module):
        text = inspect.getdoc(thing) or ""
        names = {**vars(module), "diffiso": diffiso}
        test = doctest.DocTestParser().get_doctest(text, names, label, None, None)
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def names_with_examples():
    """Functions, and classes that a user makes; what ops return is shown in the ops' examples."""
    returned = {"GridSample", "Mesh", "MeshBatch"}
    yield from (n for n in diffiso.__all__ if callable(getattr(diffiso, n)) and n not in returned)
    for name, thing in vars(diffiso.layers).items():
        if inspect.isclass(thing) and thing.__module__ == "diffiso.layers":
            yield f"layers.{name}"


@pytest.mark.parametrize("name", sorted(names_with_examples()))
def test_every_public_name_has_an_example(name):
    thing = diffiso
    for part in name.split("."):
        thing = getattr(thing, part)
    text = inspect.getdoc(thing) or ""
    assert "Example:" in text, f"{name} has no example"
    assert doctest.DocTestParser().get_examples(text), f"{name}'s example does not run"


def readme_blocks():
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_readme_has_an_example():
    assert readme_blocks()


def test_readme_examples(tmp_path, monkeypatch):
    """In order and in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for number, block in enumerate(readme_blocks()):
        exec(compile(block, f"README block {number + 1}", "exec"), names)


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (ROOT / target).exists(), target

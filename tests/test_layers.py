"""Which file may import which: shipped files stand alone, the library half looks one way."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "modeling_clsr"
SHIPPED = sorted(PACKAGE.glob("*_clsr.py"))
ALWAYS_THERE = {"torch", "transformers", "numpy", "tokenizers", "huggingface_hub", "safetensors"}
RELATIVE = re.compile(r"^\s*from\s+(\.\S*)\s+import", re.MULTILINE)


def third_party(tree: ast.Module) -> set[str]:
    """Names of packages imported outside a module-level `try`."""
    tried = {id(node) for block in tree.body if isinstance(block, ast.Try) for node in ast.walk(block)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in tried:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_file_imports_only_flat_siblings_that_are_shipped(file):
    """Read by regular expression, as the loader does, so that docstrings count."""
    for target in RELATIVE.findall(file.read_text(encoding="utf-8")):
        assert re.fullmatch(r"\.\w+_clsr", target), f"{file.name}: from {target} import"
        assert (PACKAGE / f"{target[1:]}.py").exists()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_file_needs_nothing_but_transformers_and_torch(file):
    import sys

    names = third_party(ast.parse(file.read_text(encoding="utf-8")))
    assert names - set(sys.stdlib_module_names) - ALWAYS_THERE == set()


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("data", {"data", "shipped"}),
        ("retrieval", {"retrieval", "data", "hub", "shipped"}),
        ("training", {"training", "evaluation", "data", "hub", "shipped"}),
        ("hub", {"hub", "data", "shipped"}),
        ("evaluation", {"evaluation", "retrieval", "data", "hub", "shipped"}),
    ],
)
def test_library_half_looks_one_way(folder, allowed):
    for file in sorted((PACKAGE / folder).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and (node.level or "modeling_clsr" in node.module)
            ):
                path = node.module.removeprefix("modeling_clsr").strip(".").split(".")[0]
                layer = (
                    folder if node.level == 1 else "shipped" if path.endswith("_clsr") or not path else path
                )
                assert layer in allowed, f"{folder}/{file.name} imports {node.module}"


def test_importing_the_package_loads_no_extra():
    """The core must work without search, training and audio extras."""
    import subprocess
    import sys

    code = (
        "import sys; blocked = ('lancedb', 'silero_vad', 'tqdm.notebook', 'faster_whisper', 'sentence_transformers', "
        "'datasets', 'accelerate', 'av'); sys.modules.update(dict.fromkeys(blocked)); import modeling_clsr"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)

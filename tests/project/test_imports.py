"""Imports run down one staircase, and are read from the sources: see docs/architecture.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"spxcore": ROOT / "spxcore", "spxcore.kernels": ROOT / "kernels", "spx": ROOT / "python" / "spx"}

# Steps of spxcore, lowest first: a module imports its own step and lower ones. The longest prefix counts.
STEPS = [
    ["spxcore._version", "spxcore.errors", "spxcore.files", "spxcore.gpus", "spxcore.memory", "spxcore.rng"],
    ["spxcore.graph", "spxcore.feeds", "spxcore.canvas", "spxcore.schedules", "spxcore.heads", "spxcore.native"],
    ["spxcore.walk", "spxcore.plan"],
    ["spxcore.lower", "spxcore.drawing"],
    ["spxcore.kernels"],
    ["spxcore.engines"],
    ["spxcore.draw", "spxcore.compare", "spxcore.selftest"],
    ["spxcore"],
]
# Where torch, or Triton, which imports it, may be imported at all.
TORCH = {
    "spxcore.walk.module", "spxcore.walk.network", "spxcore.heads.log_prob", "spxcore.draw", "spxcore.kernels", "spxcore.engines.base",
    "spxcore.engines.reference", "spxcore.engines.torch", "spxcore.engines.torch_feeds", "spxcore.engines.torch_raster",
    "spxcore.engines.torch_precision",
    "spxcore.engines.triton",
}  # fmt: skip


def sources() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found.setdefault(name, path)
    return found


SOURCES = sources()


def imports(name: str, anywhere: bool = True, types: bool = False) -> set[str]:
    """Modules that a module imports; anywhere: inside functions too; types: for types only, under TYPE_CHECKING, too."""
    path, found = SOURCES[name], set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST) -> None:
        if not types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if not anywhere and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in SOURCES else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found - {name}


def step_of(name: str) -> int:
    """The step of a module of spxcore, by the longest prefix."""
    best = max(
        (prefix for step in STEPS for prefix in step if name == prefix or name.startswith(prefix + ".")), key=len
    )
    return next(number for number, step in enumerate(STEPS) if best in step)


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("spxcore")])
def test_spxcore_imports_downwards_and_nothing_of_spx(name):
    for other in imports(name):
        assert other != "spx" and not other.startswith("spx."), f"{name} imports {other}"
        if other.startswith("spxcore"):
            # Packages are entered through their __init__, which is as high as its highest module.
            low = other == "spxcore" or step_of(other) <= step_of(name)
            assert low, f"{name} imports {other}, which is above it"


def test_no_circle():
    """Not even of types."""
    graph = {name: {other for other in imports(name, False, types=True) if other in SOURCES} for name in SOURCES}
    # A package's __init__ that names its own modules is no circle of ideas.
    for name, others in graph.items():
        if SOURCES[name].name == "__init__.py":
            graph[name] = {other for other in others if not other.startswith(name + ".")}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("spxcore")])
def test_torch_is_imported_in_few_places(name):
    heavy = {other.split(".")[0] for other in imports(name)} & {"torch", "triton"}
    allowed = any(name == place or name.startswith(place + ".") for place in TORCH)
    assert allowed or not heavy, f"{name} imports {heavy}"


def test_only_the_registry_names_a_family():
    """No module outside a family's folder imports it, and none but the registry holds its module's name."""
    families = {path.name for path in (ROOT / "python/spx/models").iterdir() if (path / "network.py").exists()}
    assert "spatial" in families
    for name, path in SOURCES.items():
        for family in families:
            own = f"spx.models.{family}"
            if name == own or name.startswith(f"{own}."):
                continue
            others = [other for other in imports(name) if other == own or other.startswith(f"{own}.")]
            assert not others, f"{name} imports {others}"
            assert name == "spx.models.registry" or own not in path.read_text(), f"{name} names {own}"


# What each room of spx may import, beside its own, spxcore and what is no code of ours.
ROOMS = {
    "io": [],
    "fields": [],
    "request": ["fields"],
    "models": ["io", "fields", "request", "data"],
    "data": ["io", "fields"],
    "checkpoints": ["io", "models"],
    "api": ["request", "models", "checkpoints"],
    "training": ["signals", "io", "data", "models", "checkpoints", "api", "request"],
    "evaluation": ["io", "data", "models", "checkpoints", "api", "request"],
    "reproduce": ["io", "data", "models", "checkpoints", "api", "evaluation", "training"],
    "signals": [],
    "cli": [
        "signals",
        "io",
        "fields",
        "request",
        "data",
        "models",
        "checkpoints",
        "api",
        "training",
        "evaluation",
        "reproduce",
    ],
}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("spx.")])
def test_rooms_of_spx_import_downwards(name):
    room = name.split(".")[1]
    for other in imports(name):
        if other.startswith("spx."):
            there = other.split(".")[1]
            assert there == room or there in ROOMS[room], f"{name} imports {other}"


def figure() -> str:
    """The imports among rooms as text: lowest rooms first; a line is a room and what it imports of its own package."""
    lines = []
    for package in ("spxcore", "spx"):
        below: dict[str, set[str]] = {}
        for name in SOURCES:
            if name.startswith(package + "."):
                there = {other.split(".")[1] for other in imports(name) if other.startswith(package + ".")}
                below.setdefault(name.split(".")[1], set()).update(there)
        everywhere = {"_version", "errors"}
        below = {room: others - everywhere - {room} for room, others in below.items() if room not in everywhere}
        placed: list[str] = []
        while len(placed) < len(below):
            ready = sorted(room for room in below if room not in placed and below[room] <= set(placed))
            assert ready, f"rooms in a circle: {sorted(set(below) - set(placed))}"
            placed += ready
        lines += [
            package,
            *(f"  {room:12}{' '.join(r for r in placed if r in below[room])}".rstrip() for room in placed),
        ]
    return "\n".join(lines)


def test_the_figure_in_the_docs_is_what_the_sources_say():
    assert f"```\n{figure()}\n```" in (ROOT / "docs" / "architecture.md").read_text(), figure()

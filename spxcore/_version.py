"""The version's one home: pyproject.toml, CMakeLists.txt and the native modules all read it here."""

__version__ = "0.1.0"

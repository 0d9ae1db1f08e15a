"""The table that `make robustness` prints: faults that were once found, by kind, and whether the tests of their kind still pass."""

from __future__ import annotations

from collections import defaultdict

import pytest

# Kinds of `@pytest.mark.fault(KIND, "what was wrong")`, and what a fault of the kind is called in the last line.
KINDS = {
    "lost": "lost",
    "wrong": "wrong",
    "crash": "crashes",
    "traceback": "tracebacks",
    "hang": "hangs",
    "unseen": "unseen",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--robustness", action="store_true", help="print the table of faults in the end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("fault"):
            kind, text = mark.args
            assert kind in KINDS, f"{item.nodeid}: {kind} is none of {', '.join(KINDS)}"
            item.user_properties.append(("fault", (kind, text)))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not config.getoption("--robustness"):
        return
    faults: dict[str, dict[str, list[int]]] = {kind: defaultdict(lambda: [0, 0, 0]) for kind in KINDS}
    calls: dict[str, int] = defaultdict(int)
    for column, outcomes in enumerate((("passed", "xpassed"), ("failed", "error"), ("skipped", "xfailed"))):
        for report in (r for outcome in outcomes for r in terminalreporter.getreports(outcome)):
            for name, value in getattr(report, "user_properties", ()):
                if name == "fault":
                    kind, text = value
                    faults[kind][text][column] += 1
                elif name == "fuzz" and column == 0:
                    calls[value[0]] += value[1]
    write = terminalreporter.write_line
    terminalreporter.section("robustness")
    for kind, found in faults.items():
        for text, (passed, failed, skipped) in sorted(found.items()):
            verdict = "FAILED" if failed else "ok" if passed else "skipped"
            write(f"{kind:10s} {verdict:8s}{passed:5d} of {passed + failed + skipped:4d} tests  {text}")
    for what, count in sorted(calls.items()):
        write(f"{'fuzzed':10s} {'ok':8s}{count:13,d} calls  {what}")
    write(", ".join(f"{sum(1 for c in found.values() if c[1])} {KINDS[kind]}" for kind, found in faults.items()))

"""Turns the JSON of `pytest benchmarks --benchmark-only --benchmark-json FILE` into a Markdown table with its conditions."""

import json
import sys


def main(path: str) -> None:
    with open(path) as file:
        figures = json.load(file)
    machine, info = figures["machine_info"], figures["machine_info"]["spx"]
    every = [b["extra_info"] for b in figures["benchmarks"]]
    rows = sorted((row for row in every if "job" in row), key=lambda row: (row["job"], row["engine"]))
    print("| job | engine | us a pixel | times the naive loop | share of fp32 peak |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['job']} | {row['engine']} | {row['us_a_pixel']:.1f} | {row['ratio_to_naive']:.0f} "
            f"| {100 * row['share_of_fp32_peak']:.0f} % |"
        )
    if any("startup" in row for row in every):
        print("\n| 8x8 pixels, the whole command | engine | processor time | peak memory |\n|---|---|---|---|")
    for row in (row for row in every if "startup" in row):
        print(
            f"| {row['startup']} | {row['engine']} | {row['processor_seconds']:.2f} s | {row['peak_mebibytes']:.0f} MiB |"
        )
    naive = rows[0]["naive_us_a_pixel"]
    print(
        f"\nNaive loop: {naive:.0f} us a pixel. {machine['cpu'].get('brand_raw', machine['processor'])}, {info['cores']} cores, "
        f"{info['fma_peak_per_core'] / 1e9:.0f} G multiply-adds a second and core, load average {info['load_average'][0]:.1f} at "
        f"the start; spx {info['version']}, commit {figures['commit_info'].get('id', '?')[:8]}, torch {info['torch']}, "
        f"{info['native']['compiler']}; {figures['datetime'][:10]}."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

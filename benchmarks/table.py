"""Turns the JSON of `pytest benchmarks --benchmark-only --benchmark-json FILE` into a Markdown table with its conditions."""

import json
import sys


def main(path: str) -> None:
    with open(path) as file:
        figures = json.load(file)
    machine, info = figures["machine_info"], figures["machine_info"]["spx"]
    every = [b["extra_info"] for b in figures["benchmarks"]]
    rows = sorted((row for row in every if "job" in row), key=lambda row: (row["job"], row["engine"]))
    print("| job | engine | us a pixel | times the naive loop | share of its peak |")
    print("|---|---|---|---|---|")
    for row in rows:
        share = "" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.0f} %"
        print(f"| {row['job']} | {row['engine']} | {row['us_a_pixel']:.1f} | {row['ratio_to_naive']:.0f} | {share} |")
    if any("startup" in row for row in every):
        print("\n| 8x8 pixels, the whole command | engine | processor time | peak memory |\n|---|---|---|---|")
    for row in (row for row in every if "startup" in row):
        print(
            f"| {row['startup']} | {row['engine']} | {row['processor_seconds']:.2f} s | {row['peak_mebibytes']:.0f} MiB |"
        )
    naive, bf16 = rows[0]["naive_us_a_pixel"], info["bf16_peak_per_core"]
    and_bf16 = f" and {bf16 / 1e9:.0f} G bf16" if bf16 else ""
    print(
        f"\nNaive loop: {naive:.0f} us a pixel, measured on {rows[0]['naive_pixels']}. "
        f"{machine['cpu'].get('brand_raw', machine['processor'])}, {info['cores']} cores, "
        f"{info['fma_peak_per_core'] / 1e9:.0f} G fp32{and_bf16} multiply-adds a second and core, "
        f"load average {info['load_average'][0]:.1f} at the start; spx {info['version']}, "
        f"commit {figures['commit_info'].get('id', '?')[:8]}, torch {info['torch']}, "
        f"{info['native']['compiler']}; {figures['datetime'][:10]}."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

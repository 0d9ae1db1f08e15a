"""Turns the JSON of `pytest benchmarks --benchmark-only --benchmark-json FILE` into a Markdown table with its conditions."""

import json
import sys


def main(path: str) -> None:
    with open(path) as file:
        figures = json.load(file)
    machine, info = figures["machine_info"], figures["machine_info"]["spx"]
    every = [b["extra_info"] for b in figures["benchmarks"]]
    rows = sorted((row for row in every if "job" in row), key=lambda row: (row["job"], row["engine"]))
    if rows:
        print("| job | engine | us a pixel | times the naive loop | share of its peak |")
        print("|---|---|---|---|---|")
    for row in rows:
        share = "" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.0f} %"
        print(f"| {row['job']} | {row['engine']} | {row['us_a_pixel']:.1f} | {row['ratio_to_naive']:.0f} | {share} |")
    wholes = [row for row in every if "whole" in row]
    if wholes:
        print(
            "\n| whole images | ms an image | forward-pass equivalents | of a PyTorch pass | times the naive loop |\n|---|---|---|---|---|"
        )
    for row in wholes:
        print(
            f"| {row['whole']} | {row['ms_an_image']:.2f} | {row['equivalents']:.2f} | {row['of_a_torch_pass']:.2f} | "
            f"{row['times_the_naive_loop']:.0f} |"
        )
    if any("startup" in row for row in every):
        print("\n| 8x8 pixels, the whole command | engine | processor time | peak memory |\n|---|---|---|---|")
    for row in (row for row in every if "startup" in row):
        print(
            f"| {row['startup']} | {row['engine']} | {row['processor_seconds']:.2f} s | {row['peak_mebibytes']:.0f} MiB |"
        )
    updates = [row for row in every if "update_ms" in row]
    if updates:
        print("\n| new weights for | ms an update | ms an image of 28x28 |\n|---|---|---|")
    for row in updates:
        print(f"| {row['model']} | {row['update_ms']:.1f} | {row['one_image_ms']:.1f} |")
    bf16 = info["bf16_peak_per_core"]
    and_bf16 = f" and {bf16 / 1e9:.0f} G bf16" if bf16 else ""
    naive = (
        f"Naive loop: {rows[0]['naive_us_a_pixel']:.0f} us a pixel, measured on {rows[0]['naive_pixels']}. "
        if rows
        else ""
    )
    print(
        f"\n{naive}{machine['cpu'].get('brand_raw', machine['processor'])}, {info['cores']} cores, "
        f"{info['fma_peak_per_core'] / 1e9:.0f} G fp32{and_bf16} multiply-adds a second and core, "
        f"load average {info['load_average'][0]:.1f} at the start; spx {info['version']}, "
        f"commit {figures['commit_info'].get('id', '?')[:8]}, torch {info['torch']}, "
        f"{info['native']['compiler']}; {figures['datetime'][:10]}."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

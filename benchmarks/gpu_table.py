"""Turns the JSON of benchmarks/test_gpu.py into a Markdown table with its conditions."""

import json
import sys


def main(path: str) -> None:
    with open(path) as file:
        figures = json.load(file)
    infos = [b["extra_info"] for b in figures["benchmarks"]]
    rows, training = ([info for info in infos if key in info] for key in ("device", "training"))
    if not rows:
        print("No figures: nothing ran on a GPU.")
        return
    print("| job | engine | seconds | pixels/s | us a step | times the naive loop | share of ceiling |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        step = "" if row["us_a_step"] is None else f"{row['us_a_step']:.1f}"
        print(
            f"| {row['job']} | {row['engine']} | {row['seconds']:.3f} | {row['pixels_a_second']:,.0f} | {step} "
            f"| {row['ratio_to_naive']:,.0f} | {100 * row['share_of_ceiling']:.1f} % |"
        )
    first, info = rows[0], figures["machine_info"]["spx"]
    ceilings = sorted({row["ceiling_macs_a_second"] for row in rows})
    print(
        f"\nNaive loop: {first['naive_us_a_pixel']:.0f} us a pixel, measured on {first['naive_pixels']} pixels and extrapolated. "
        f"Ceilings, measured with large matrix products: {', '.join(f'{c / 1e12:.1f}' for c in ceilings)} T multiply-adds a second. "
        f"{first['device']}, CUDA {first['cuda']}; spx {info['version']}, commit {figures['commit_info'].get('id', '?')[:8]}, torch "
        f"{info['torch']}; {figures['datetime'][:10]}."
    )
    for row in training:
        how = "the fused layer" if row["fused"] else "PyTorch"
        print(
            f"\nTraining pass of {row['training']}, {row['patches']} patches, with {how}: {row['milliseconds']:.2f} ms."
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

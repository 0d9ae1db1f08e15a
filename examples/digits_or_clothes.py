"""Digits against clothes by scores: which test images does a model take for its own kind, MNIST's or Fashion-MNIST's?

The plain answer is the number of bits, -log2 p(x): strange images should cost more. It fails one way round. A model of clothes gives
digits a higher likelihood than clothes (Nalisnick et al. 2019, "Do deep generative models know what they don't know?", figure 1),
because a simple image is cheap under any model. A remedy is to compare with what the image costs without the model, by *input
complexity* (Serrà et al. 2020, "Input complexity and out-of-distribution detection with
likelihood-based generative models"): S(x) = -log2 p(x) - L(x), L(x) being the bits of x in a lossless file.

    python examples/digits_or_clothes.py DIGITS CLOTHES --mnist DIR --fashion DIR --n 1000 --out roc.png

DIGITS and CLOTHES are checkpoints of the two data sets; either may be missing (-). A row of the table is one way
to tell strange images from the model's own. AUROC is the probability that a strange image gets the higher number: 1 is perfect, 0.5 a
coin, and below that the score is misled. The picture has the ROC curves.
"""

import argparse
import io

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

import spx
from spx.data.load import load

# The lossless files that L(x) may be: all that a header costs besides is the same for all images of a size.
FILES = {
    "PNG": {"format": "PNG", "optimize": True},
    "JPEG 2000": {"format": "JPEG2000", "irreversible": False, "no_jp2": True},
}


def file_bits(images: np.ndarray, **options) -> np.ndarray:
    """Bits of each image's lossless file: uint8 [N, H, W, 1] -> [N]."""
    lengths = []
    for image in images[..., 0]:
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, **options)
            lengths.append(8 * file.tell())
    return np.array(lengths)


def scores(sampler: spx.Sampler, images: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers [N] that should be higher for images of another kind than the model's, by what they are called."""
    bits = sampler.score(images).bits * images[0].size
    return {"bits": bits, **{f"bits - {name}": bits - file_bits(images, **options) for name, options in FILES.items()}}


def draw(path: str, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """The ROC curves, by their names: false and true positive rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    for name, (false, true) in curves.items():
        axes.plot(false, true, label=name)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(
        xlabel="own images taken for strange", ylabel="strange images found", aspect="equal", xlim=(0, 1), ylim=(0, 1)
    )
    axes.legend(loc="center", fontsize="small")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits against clothes by scores.")
    parser.add_argument("digits", help="checkpoint of a model of MNIST; - for none")
    parser.add_argument("clothes", help="checkpoint of a model of Fashion-MNIST; - for none")
    parser.add_argument("--mnist", default="data/mnist", metavar="DIR", help="folder of MNIST's files (data/mnist)")
    parser.add_argument(
        "--fashion", default="data/fashion-mnist", metavar="DIR", help="of Fashion-MNIST's (data/fashion-mnist)"
    )
    parser.add_argument("--n", type=int, default=1000, help="test images of each kind (1000)")
    parser.add_argument("--out", default="roc.png", metavar="PATH", help="picture of the curves (roc.png)")
    options = parser.parse_args()

    files = {"digits": ("mnist", options.mnist), "clothes": ("fashion-mnist", options.fashion)}
    kinds = {kind: load(*of, "test").images[: options.n].transpose(0, 2, 3, 1) for kind, of in files.items()}
    print(f"{'model of':10}{'score':18}{'of digits':>12}{'of clothes':>12}{'AUROC':>8}")
    curves = {}
    for own, name in (("digits", options.digits), ("clothes", options.clothes)):
        if name == "-":
            continue
        sampler = spx.load(name)
        found = {kind: scores(sampler, images) for kind, images in kinds.items()}
        (other,) = kinds.keys() - {own}
        strange = np.repeat([0, 1], [len(kinds[own]), len(kinds[other])])
        for score in found[own]:
            numbers = np.concatenate([found[own][score], found[other][score]])
            area = roc_auc_score(strange, numbers)
            means = (found[kind][score].mean() for kind in kinds)
            print(f"{own:10}{score:18}" + "".join(f"{mean:12.0f}" for mean in means) + f"{area:8.3f}")
            curves[f"model of {own}: {score}, {area:.3f}"] = roc_curve(strange, numbers)[:2]
    draw(options.out, curves)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

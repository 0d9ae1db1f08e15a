"""The classifier of the paper's evaluation: a LeNet (LeCun et al. 1998) that judges samples and reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spxcore.errors import require, whole_number

from ..data import Images
from ..io.tensors import CONFIG, read_folder, write_tensors
from ..io.tensors import Tensor as Wanted

SHIPPED = Path(__file__).parent.parent / "assets" / "lenet"
SIDE = 28
_CLASSES = 1 << 16  # at most, as of labels


def why_not(channels: int, side: int, levels: int = 256) -> str | None:
    """Why the classifier cannot judge square images of `side` pixels a side; None if it can."""
    if channels != 1:
        return f"{channels} channels, and it sees grey images"
    if side < SIDE:
        return f"{side} pixels a side, and it sees at least {SIDE}"
    return None if levels == 256 else f"{levels} levels, and it sees 256"


class LeNet(nn.Module):
    """Two 5x5 convolutions with max-pooling and two fully connected layers: 20, 50, 500 units, as the field trains it on MNIST."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.classes = classes
        self.conv_1 = nn.Conv2d(1, 20, 5)
        self.conv_2 = nn.Conv2d(20, 50, 5)
        self.hidden = nn.Linear(50 * 4 * 4, 500)
        self.out = nn.Linear(500, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 1, 28, 28] in [0, 1] -> logits [B, classes]."""
        x = F.max_pool2d(F.relu(self.conv_1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv_2(x)), 2)
        return self.out(self.dropout(F.relu(self.hidden(x.flatten(1)))))

    @torch.no_grad()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities of images of any size, which are brought to 28x28 by averaging over areas (paper, section 4.3).

        Args:
            images: uint8 [N, H, W, 1], light strokes on dark, at least 28 pixels a side.

        Returns:
            float32 [N, classes].
        """
        good = images.ndim == 4 and images.shape[3] == 1 and min(images.shape[1:3]) >= SIDE
        require(good, "images", f"[N, H, W, 1], at least {SIDE} pixels a side", list(images.shape))
        self.eval()
        chunks = []
        for chunk in np.array_split(images, max(1, len(images) // 256)):
            x = torch.from_numpy(np.array(chunk.transpose(0, 3, 1, 2))).to(self.out.bias.device).float() / 255
            chunks.append(torch.softmax(self(F.interpolate(x, (SIDE, SIDE), mode="area")), dim=1))
        return torch.cat(chunks).cpu().numpy()


def check_images(images: Images) -> None:
    """Raise an `SpxError` unless the classifier can be trained on images."""
    shape = images.images.shape[1:]
    require(shape == (1, SIDE, SIDE), "images", f"one channel, {SIDE}x{SIDE}", list(shape))


def train_lenet(
    train: Images, test: Images, epochs: int = 15, seed: int = 0, progress: Callable[[int, float], None] | None = None
) -> tuple[LeNet, float]:
    """Train the classifier: AdamW, one-cycle learning rate, shifts of up to two pixels, batch 128.

    Args:
        train, test: 28x28 images of one channel.
        epochs: passes over the training set.
        seed: of weights, order and shifts.
        progress: called after each epoch with its number and the accuracy on the test set.

    Returns:
        The classifier and its accuracy on the test set.
    """
    check_images(train)
    require(epochs >= 1, "epochs", "at least 1", epochs)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = LeNet(int(train.labels.max()) + 1)
    images = torch.from_numpy(train.images.copy()).float() / 255
    labels = torch.from_numpy(train.labels.astype(np.int64))
    batch = min(128, len(images))
    steps = len(images) // batch
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, epochs * steps)
    accuracy = 0.0
    for epoch in range(epochs):
        model.train()
        order = generator.permutation(len(images))
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]
            shift = [int(s) for s in generator.integers(-2, 3, 2)]
            loss = F.cross_entropy(model(torch.roll(images[index], shift, (2, 3))), labels[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        predicted = model.probabilities(test.images.transpose(0, 2, 3, 1)).argmax(axis=1)
        accuracy = float((predicted == test.labels).mean())
        if progress:
            progress(epoch, accuracy)
    return model.eval(), accuracy


def save_lenet(model: LeNet, folder: Path, about: dict) -> None:
    """Write config.json and model.safetensors."""
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    write_tensors(folder, {"classes": model.classes, "about": about}, tensors)


def load_lenet(folder: str | Path | None = None) -> LeNet:
    """The classifier that is shipped (trained on MNIST), or the one in a folder.

    Raises:
        SpxError: if it is missing or damaged.
    """
    folder = SHIPPED if folder is None else Path(folder)

    def wanted(config: dict) -> dict[str, Wanted]:
        way_out = "spx-train-lenet makes one"
        classes = whole_number(f"{folder / CONFIG}: classes", config.get("classes"), 1, _CLASSES)
        require(
            not config.keys() - {"classes", "about"}, str(folder / CONFIG), "a LeNet of spx", "another model", way_out
        )
        with torch.device("meta"):  # no memory for what may not be there
            return {name: Wanted(tuple(t.shape)) for name, t in LeNet(classes).state_dict().items()}

    config, tensors = read_folder(folder, wanted)
    model = LeNet(config["classes"])
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    return model.eval()

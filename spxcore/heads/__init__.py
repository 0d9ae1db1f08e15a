"""Heads: the distribution of one moment's pixel, or channel, given the network's numbers for it.

A head is data (`Logistics`, `Softmax`) with its meaning in NumPy: `draw`, and a draw's distance from the nearest bin edge. `csrc/heads` and
`kernels/heads.py` are the twins of the same names; `log_prob` is the likelihood in torch.
"""

from __future__ import annotations

from .logistics import Logistics
from .sampling import Sampling
from .softmax import Softmax

Head = Logistics | Softmax

__all__ = ["Head", "Logistics", "Sampling", "Softmax"]

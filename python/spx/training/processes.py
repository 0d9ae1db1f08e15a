"""Several processes that train one model: which one this is, and what they agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from spxcore.errors import SpxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..models.training import Batch


class Processes:
    """The processes of torchrun, or this one alone.

    Attributes:
        rank: number of this one; process 0 writes files and speaks.
        count: how many.
    """

    def __init__(self):
        self.together = dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if self.together else (0, 1)

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process' part of each tensor's first axis."""
        if self.count == 1:
            return batch
        return {name: tensor.chunk(self.count)[self.rank] for name, tensor in batch.items()}

    def any(self, mine: bool, device: torch.device) -> bool:
        """Whether it holds in any process; all must ask."""
        if not self.together:
            return mine
        answer = torch.tensor(float(mine), device=device)
        dist.all_reduce(answer)
        return bool(answer > 0)

    def first_does(self, work: Callable[[], None]) -> None:
        """Process 0 does it; what it finds wrong, every process raises, so that none waits for another.

        Raises:
            SpxError: the first one's.
        """
        problem: list[str | None] = [None]
        if self.first:
            try:
                work()
            except SpxError as error:
                problem = [str(error)]
        if self.together:
            dist.broadcast_object_list(problem)
        if problem[0]:
            raise SpxError(problem[0])

"""Several processes that train one method together, as `torchrun` starts them.

Every process draws the same batches and holds the same weights, random states and occupancy; each computes its part of
a batch, and gradients are averaged before the optimiser. The first process leads: it alone writes files, serves the
viewer and decides; the others hear from it what comes next. A checkpoint therefore does not depend on the number of
processes.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as pack_safetensors
from torch import Tensor

from ..errors import TrainingFailed, UserError
from .train_state import TrainState, below_prefix, with_prefix

logger = logging.getLogger(__name__)
PATIENCE = timedelta(hours=2)
"""How long the others wait for the first process, which may be solving camera poses; a dead process is noticed at
once, because its connections close."""
STILL_HERE_S = 60.0
"""While training is paused, the first process says so this often."""
_LINE_S = 1.0
"""The first process says what went wrong; the others speak only when it has not done so in this time."""
_N_NUMBERS = 4

OrderKind = Literal["stop", "step", "state", "warm up", "wait"]


@dataclass(frozen=True)
class Order:
    """What the first process wants next.

    Attributes:
        kind: `stop` ends, `step` trains a step, `state` announces a whole state, `warm up` compiles, `wait` is a sign
            of life.
        step: Steps done before.
        progress: Share 0..1 of the training that is done.
        rate: Factor on the learning rate that somebody who watches asked for.
    """

    kind: OrderKind
    step: int = 0
    progress: float = 0.0
    rate: float = 1.0


class TeamBroken(TrainingFailed):
    """Another process of the team ended or cannot be reached."""


class Team:
    """This process among those that train together. Use it as a context manager.

    Attributes:
        index: Number of this process, from 0; 0 leads.
        count: Processes in all.
        is_one_host: Whether all processes run on one machine.
        last_words: What to say when another process is lost.
        wishes_to_stop: Set by a process that was told to stop; the first one hears of it in the next step.
    """

    def __init__(self, index: int, count: int, store: Any, *, is_one_host: bool) -> None:
        self.index, self.count, self.is_one_host = index, count, is_one_host
        self.wishes_to_stop = False
        self.last_words = "another process of this training ended"
        self._store = store
        self._next_sign = 0.0
        self._is_dismissed = self._is_broken = False

    @property
    def is_leading(self) -> bool:
        """Whether this process decides and writes."""
        return self.index == 0

    def part(self, n: int) -> slice:
        """See `methods.protocol.Share`."""
        return slice(n * self.index // self.count, n * (self.index + 1) // self.count)

    def weights(self, n: int) -> list[float]:
        """What the parts of `n` pieces count, process by process."""
        ends = [n * i // self.count for i in range(self.count + 1)]
        return [(end - begin) / max(n, 1) for begin, end in zip(ends, ends[1:], strict=False)]

    def n_at_most(self, n: int) -> int:
        """See `methods.protocol.Share`."""
        return -(-n // self.count)

    def sum(self, values: Sequence[float]) -> list[float]:
        """See `methods.protocol.Share`."""
        total = torch.tensor(values, dtype=torch.float64)
        with self._noticing():
            dist.all_reduce(total)
        return list(total.tolist())

    def gather(self, own: Tensor, n: int) -> Tensor:
        """See `methods.protocol.Share`."""
        room = self.n_at_most(n)
        padded = own.new_zeros(room, *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        with self._noticing():
            dist.all_gather(parts, padded)
        counts = [n * (i + 1) // self.count - n * i // self.count for i in range(self.count)]
        return torch.cat([part[:k] for part, k in zip(parts, counts, strict=True)])

    def add_up(self, numbers: Tensor) -> None:
        """Replace numbers by their sums over all processes."""
        with self._noticing():
            dist.all_reduce(numbers)

    def tell(self, order: Order) -> None:
        """Say what comes next; for the first process."""
        kind = get_args(OrderKind).index(order.kind)
        self._is_dismissed = order.kind == "stop"
        with self._noticing():
            dist.broadcast(torch.tensor([kind, order.step, order.progress, order.rate], dtype=torch.float64), 0)

    def hear(self) -> Order:
        """Wait for what comes next; for the others."""
        told = torch.empty(_N_NUMBERS, dtype=torch.float64)
        with self._noticing():
            dist.broadcast(told, 0)
        kind, step, progress, rate = told.tolist()
        return Order(get_args(OrderKind)[int(kind)], int(step), progress, rate)

    def show_life(self) -> None:
        """Tell the others now and then that the pause goes on."""
        if time.monotonic() >= self._next_sign:
            self.tell(Order("wait"))
            self._next_sign = time.monotonic() + STILL_HERE_S

    def send(self, content: bytes) -> None:
        """Give the others some bytes; for the first process."""
        with self._noticing():
            dist.broadcast(torch.tensor([len(content)]), 0)
            if content:
                dist.broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0)

    def receive(self) -> bytes:
        """Take what `send` gives."""
        length = torch.empty(1, dtype=torch.int64)
        with self._noticing():
            dist.broadcast(length, 0)
            content = torch.empty(int(length), dtype=torch.uint8)
            if len(content):
                dist.broadcast(content, 0)
        return content.numpy().tobytes()

    def send_state(self, state: TrainState) -> None:
        """Give the others a whole state of training."""
        tensors = {**with_prefix("weights", state.weights), **with_prefix("trainer", state.trainer)}
        self.send(pack_safetensors({name: value.contiguous() for name, value in tensors.items()}))

    def receive_state(self) -> TrainState:
        """Take what `send_state` gives."""
        tensors: Mapping[str, Tensor] = parse_safetensors(self.receive())
        return TrainState(below_prefix("weights", tensors), below_prefix("trainer", tensors))

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_broken:
            # torchrun ends us too now; what is left to do is one line.
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not self.is_leading:
                time.sleep(_LINE_S)
            if not self._claim_line():
                raise SystemExit(1)
            raise TeamBroken(self.last_words)
        if error is not None:
            self._claim_line()
        if self.is_leading and not self._is_dismissed:
            with suppress(TeamBroken):
                self.tell(Order("stop"))
        dist.destroy_process_group()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Turn the errors of broken connections into `TeamBroken`."""
        try:
            yield
        except RuntimeError as error:
            self._is_broken = True
            logger.info("a collective operation failed: %s", " ".join(str(error).split()))
            raise TeamBroken(self.last_words) from error

    def _claim_line(self) -> bool:
        """Whether this process is the first that wants to say why everything ends."""
        try:
            return bool(self._store.add("nsx/last-line", 1) == 1)
        except RuntimeError:  # the store lived in the process that died
            return True


def joined() -> AbstractContextManager[Team | None]:
    """The team that `torchrun` started this process in; None where it runs alone.

    Raises:
        UserError: if the others cannot be found, or a machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return nullcontext()
    return _join()


def _join() -> Team:
    count, n_here = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "gloo"
    if torch.cuda.is_available():
        own = int(os.environ.get("LOCAL_RANK", "0"))
        if n_here > torch.cuda.device_count():
            raise UserError(
                f"{n_here} processes for {torch.cuda.device_count()} GPUs",
                where="torchrun",
                fix="Use --nproc-per-node with the number of GPUs, or hide them with CUDA_VISIBLE_DEVICES=",
            )
        torch.cuda.set_device(own)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, index, count = next(dist.rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(backend, store=store, rank=index, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the {count} processes do not find each other ({reason})", where="torchrun", fix="Start them by torchrun"
        ) from error
    logger.info("process %d of %d", index + 1, count)
    return Team(index, count, store, is_one_host=n_here == count)

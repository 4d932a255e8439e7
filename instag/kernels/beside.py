"""Work on a stream of its own beside other work: for launches of few blocks that would hold up a whole GPU.

Autograd keeps, with a parameter's node, the stream on which the graph that it stands in was first built, for as long as
anything holds that graph. A graph that was built on the default stream and is still held when a step is captured makes
the capture fail: let go of graphs (detach what is kept) before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

POOL = -1  # priority; it gains nothing, but torch hands these out apart from the streams that graphs are recorded on


def beside(work: Callable[[], T], *reads: object) -> Callable[[], T]:
    """Queue work now, beside what is queued until the returned function is called: that joins both, and is the result.

    Inside a capture this makes two branches of the graph. Autograd runs the way back on the same two streams and joins
    them. Memory of a tensor that one stream made and the other reads is used again once both are done with it. On the
    CPU the work is done at once. Work may itself have work done beside it.

    Args:
        work: what to queue; it must not read what is queued after this call. It returns tensors, or what is made of
            them: dataclasses, tuples.
        reads: what it reads besides parameters, tensors or made of them, at least one tensor; the first one's device
            decides.
    """
    read = [*_tensors(reads)]
    if not read[0].is_cuda:
        result = work()
        return lambda: result
    main, idle = torch.cuda.current_stream(read[0].device), _idle(read[0].device)
    side = idle.pop() if idle else torch.cuda.Stream(read[0].device, priority=POOL)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        result = work()
    for tensor in read:
        tensor.record_stream(side)

    def joined() -> T:
        main.wait_stream(side)
        idle.append(side)
        for tensor in _tensors(result):
            tensor.record_stream(main)
        return result

    return joined


@cache
def _idle(device: torch.device) -> list[torch.cuda.Stream]:
    """Streams that were joined and are kept for the next; the last one joined is the first one taken."""
    return []


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        yield from _tensors(tuple(getattr(value, field.name) for field in fields(value)))
    elif isinstance(value, tuple):
        for each in value:
            yield from _tensors(each)

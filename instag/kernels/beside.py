"""Work on a stream of its own beside other work: for launches of few blocks that would hold up a whole GPU.

Autograd keeps, with a parameter's node, the stream on which the graph that it stands in was first built, for as long as
anything holds that graph. A graph that was built on the default stream and is still held when a step is captured makes
the capture fail: let go of graphs (detach what is kept) before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

POOL = -1  # priority; it gains nothing, but torch hands these out apart from the streams that graphs are recorded on


def beside(work: Callable[[], Tensor], *reads: Tensor) -> Callable[[], Tensor]:
    """Queue work now, beside what is queued until the returned function is called: that joins both, and is the result.

    Inside a capture this makes two branches of the graph. Autograd runs the way back on the same two streams and joins
    them. Memory of a tensor that one stream made and the other reads is used again once both are done with it. On the
    CPU the work is done at once.

    Args:
        work: what to queue; it must not read what is queued after this call.
        reads: what it reads besides parameters, at least one tensor; their device decides.
    """
    if not reads[0].is_cuda:
        result = work()
        return lambda: result
    main = torch.cuda.current_stream(reads[0].device)
    side = _side(main)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        result = work()
    for tensor in reads:
        tensor.record_stream(side)

    def joined() -> Tensor:
        main.wait_stream(side)
        result.record_stream(main)
        return result

    return joined


@cache
def _side(main: torch.cuda.Stream) -> torch.cuda.Stream:
    """One beside each stream that work is queued on, kept."""
    return torch.cuda.Stream(main.device, priority=POOL)

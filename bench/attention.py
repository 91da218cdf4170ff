"""Which attention kernel is faster on this machine: three plain operations, or torch's fused one.  Forward and
backward.

    python -m bench.attention

`workers.clip.blocks.attention` chooses by device from what this prints.
"""

import statistics
import time

import torch
from torch.nn import functional as F

SIZES = ((16, 12, 197, 64), (64, 5, 37, 32), (64, 5, 17, 32), (260, 8, 16, 64))
"""Images or sentences, heads, tokens, head width: ViT-B/16, two small ViTs, a text tower."""


def main() -> None:
    """Prints the fused kernel's time as a multiple of the plain one's, per size and dtype."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        for size in SIZES:
            q, k, v = (torch.randn(size, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
            ratios = []
            for turn in range(8):
                plain = _time(
                    lambda q=q, k=k, v=v: torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), -1) @ v
                )
                fused = _time(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v))
                if turn:
                    ratios.append(fused / plain)
            print(f"{device} {str(dtype)[6:]:<9} {size!s:<20} fused / plain = {statistics.median(ratios):.2f}")


def _time(run) -> float:
    started = time.perf_counter()
    run().sum().backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

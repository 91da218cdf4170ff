"""The Kronecker product that many methods build their tensors with, batched."""

import torch


def kronecker(scale_KIJ: torch.Tensor, source_MN: torch.Tensor) -> torch.Tensor:
    """`torch.kron(scale[k], source)` for every k at once.  [K, I, J] and [M, N] -> [K, I*M, J*N].

    Block (i, j) of the result is `scale[k, i, j] * source`.
    """
    num, rows, columns = scale_KIJ.shape
    height, width = source_MN.shape
    return torch.einsum("kij,mn->kimjn", scale_KIJ, source_MN).reshape(num, rows * height, columns * width)


def kronecker_sum(scales_PNIJ: torch.Tensor, sources_PNMK: torch.Tensor) -> torch.Tensor:
    """`sum_i torch.kron(scales[p, i], sources[p, i])` for every p at once, with both factors batched.

    [P, N, I, J] and [P, N, M, K] -> [P, I*M, J*K].
    """
    num, _, rows, columns = scales_PNIJ.shape
    height, width = sources_PNMK.shape[-2:]
    product = torch.einsum("pnij,pnmk->pimjk", scales_PNIJ, sources_PNMK)
    return product.reshape(num, rows * height, columns * width)

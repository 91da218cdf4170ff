"""Pretrains the demo world's tiny CLIP from scratch on the CPU:  python -m workers.demo.pretrain

Draws a pool of pictures with captions, trains both towers contrastively, and saves an ordinary open_clip folder.
Weights compute in bf16 (2-7 x faster) beside fp32 masters that the optimizers update.  What makes minutes on two cores
enough: a patch embedding that starts out whitening the pool's patches, and Muon for the matrices of the blocks.
"""

import argparse
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.clip.scratch import new_clip, new_tokenizer, save_clip
from workers.demo.losses import PAIRWISE_TEMPERATURE, clip_loss, pairwise_loss, pairwise_loss_literal
from workers.demo.scenes import CAPTIONS_PER_PICTURE, SUBJECTS, Pool, caption_matches, draw_pool

# B pictures of a batch, P pictures of the pool, L text positions, E joint embedding

logger = logging.getLogger(__name__)
CLIP_FOLDER = Path(__file__).parent / "clip"
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 96,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 160, "layers": 5, "head_width": 32},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 3},
    },
    "preprocess_cfg": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
}


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run; equal configs give equal weights on the same machine and number of threads."""

    loss: Literal["clip", "pwcl"] = "clip"
    loss_form: Literal["exp", "literal"] = "exp"
    """Form of the pair-wise loss; the CLIP loss has one form."""
    num_pictures: int = 60_000
    num_steps: int = 3000
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    """Share of the steps in which the learning rate climbs; then it falls along a cosine to zero."""
    seed: int = 0
    threads: int = 1
    """Threads of the loop; the weights depend on it in the last bits.  A second one pays only on an idle machine."""
    processes: int = 2
    """Processes that draw the pool, which does not depend on their number."""
    precision: Literal["bf16", "fp32"] = "bf16"
    model: dict[str, Any] = field(default_factory=lambda: CONFIG)


@dataclass(frozen=True)
class PretrainResult:
    model: torch.nn.Module
    """fp32, on the CPU, in eval mode."""
    losses: list[float]
    """One loss per step."""
    seconds: float


def pretrain(config: PretrainConfig, report: Callable[[int, float], None] = lambda step, loss: None) -> PretrainResult:
    """Draws the pool and trains on it.  `report` is told step and loss now and then."""
    if config.loss == "clip" and config.loss_form != "exp":
        raise ValueError(f"loss_form={config.loss_form!r} belongs to loss 'pwcl'; the CLIP loss has one form, 'exp'.")
    started = time.monotonic()
    torch.set_num_threads(config.threads)
    pool = draw_pool(config.num_pictures, config.seed, num_processes=config.processes)
    logger.info("drew %d pictures in %.0f s", config.num_pictures, time.monotonic() - started)

    # --- model: a vocabulary of the words in use while training, the full one afterwards
    torch.manual_seed(config.seed)
    saved = new_clip(config.model)
    _start_well(saved.visual, pool.pictures)
    context_length = config.model["model_cfg"]["text_cfg"]["context_length"]
    tokens_CL, used_tokens = _tokenize(pool.captions, context_length)
    model = _for_training(saved, config, used_tokens)
    names = [name for name, _ in model.named_parameters() if name != "logit_scale"]
    working = [model.get_parameter(name) for name in names]
    masters = [parameter.detach().float().clone().requires_grad_() for parameter in working]
    log_scale = torch.tensor(math.log(1 / PAIRWISE_TEMPERATURE), requires_grad=config.loss == "clip")
    optimizers = _optimizers(config, dict(zip(names, masters, strict=True)), log_scale)

    # --- the loop
    rng = np.random.default_rng((config.seed, 1))
    losses: list[float] = []
    bare_captions = _bare_captions(pool)
    with sdpa_kernel(SDPBackend.MATH):  # on the CPU its backward is faster than the fused kernel's at these lengths
        for step in range(config.num_steps):
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = group["initial_lr"] * _schedule(step, config)

            picture_B = rng.choice(len(pool.pictures), config.batch_size, replace=False)
            caption_C = _captions(rng, pool, picture_B, bare_captions)
            images = torch.from_numpy(_augment(rng, pool, picture_B)).to(working[0].dtype)
            matches_BC = torch.from_numpy(caption_matches(pool.attributes[picture_B], pool.mentioned[caption_C]))
            image_BE = F.normalize(model.encode_image(images).float(), dim=-1)
            text_CE = F.normalize(model.encode_text(tokens_CL[caption_C]).float(), dim=-1)
            loss = _loss(config, image_BE @ text_CE.T, matches_BC, log_scale.exp())
            if not torch.isfinite(loss):
                raise ValueError(f"loss is {loss.item()} at step {step}, lr {config.lr}: use a lower --lr.")

            model.zero_grad(set_to_none=True)
            log_scale.grad = None
            loss.backward()
            for master, parameter in zip(masters, working, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
            norm = torch.nn.utils.clip_grad_norm_(masters, 1.0)
            if norm == 0:  # the literal form, where its sums of cosines are not positive
                raise ValueError(
                    f"loss {config.loss} ({config.loss_form}) has no gradient at step {step}: use form 'exp'."
                )
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                log_scale.clamp_(max=math.log(100.0))
                for master, parameter in zip(masters, working, strict=True):
                    parameter.copy_(master)

            losses.append(loss.item())
            if step % 50 == 0 or step == config.num_steps - 1:
                report(step, float(np.mean(losses[-50:])))

    _copy_back(saved, dict(zip(names, masters, strict=True)), log_scale, used_tokens)
    return PretrainResult(saved.eval(), losses, time.monotonic() - started)


def _tokenize(captions: Sequence[str], context_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions as ranks among the tokens in use, [C, L], and those tokens in ascending order.

    Ranks keep the order, so the end token remains the largest of its row, which is how the tower finds it.
    """
    tokens_CL = new_tokenizer(context_length)(list(captions))
    used, ranks = tokens_CL.unique(return_inverse=True)
    return ranks, used


def _for_training(saved: torch.nn.Module, config: PretrainConfig, used_tokens: torch.Tensor) -> Any:
    small = {**config.model, "model_cfg": {key: dict(value) if isinstance(value, dict) else value
                                           for key, value in config.model["model_cfg"].items()}}  # fmt: skip
    small["model_cfg"]["text_cfg"]["vocab_size"] = len(used_tokens)
    model = new_clip(small)
    weights = saved.state_dict()
    weights["token_embedding.weight"] = weights["token_embedding.weight"][used_tokens]
    model.load_state_dict(weights)
    return model.to(torch.bfloat16 if config.precision == "bf16" else torch.float32).train()


def _optimizers(
    config: PretrainConfig, masters: dict[str, torch.Tensor], log_scale: torch.Tensor
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the blocks, AdamW for everything else; every group remembers its `initial_lr`."""
    hidden = [value for name, value in masters.items() if "resblocks" in name and value.ndim == 2]
    others = [value for name, value in masters.items() if not ("resblocks" in name and value.ndim == 2)]
    scale = [log_scale] if log_scale.requires_grad else []
    optimizers = (
        torch.optim.Muon(hidden, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others + scale, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0, foreach=True),
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = config.lr
    return optimizers


def _start_well(visual: Any, pictures: np.ndarray) -> None:
    """Sets the patch embedding to whiten the pool's patches, and the positions to a plane wave each.

    A tower that starts there need not first learn that neighbouring pixels are alike and where a patch lies.
    """
    width, _, patch, _ = visual.conv1.weight.shape
    rows = torch.from_numpy(pictures[:4000]).float() / 127.5 - 1
    patches_ND = F.unfold(rows, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)
    values, vectors = torch.linalg.eigh(torch.cov((patches_ND - patches_ND.mean(0)).T))
    whiten = vectors / (values + 1e-2 * values.mean()).sqrt()  # columns; the floor keeps pixel noise down
    mixing = torch.linalg.qr(torch.randn(max(width, len(values)), max(width, len(values)))).Q[:width, : len(values)]
    grid = visual.positional_embedding.shape[0] - 1
    y, x = torch.meshgrid(*[torch.arange(math.isqrt(grid)).float()] * 2, indexing="ij")
    rates = torch.pi * 2.0 ** -torch.linspace(0.0, 4.0, width // 4)
    waves = [wave(axis.reshape(-1, 1) * rates) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    with torch.no_grad():
        visual.conv1.weight.copy_((mixing @ whiten.T).reshape(visual.conv1.weight.shape))
        visual.positional_embedding[1:] = 0.5 * torch.cat(waves, dim=1)


def _copy_back(
    saved: Any, masters: dict[str, torch.Tensor], log_scale: torch.Tensor, used_tokens: torch.Tensor
) -> None:
    with torch.no_grad():
        saved.token_embedding.weight[used_tokens] = masters.pop("token_embedding.weight").detach()
        saved.logit_scale.copy_(log_scale.detach())
        for name, master in masters.items():
            saved.get_parameter(name).copy_(master.detach())


def _schedule(step: int, config: PretrainConfig) -> float:
    warmup = max(1, round(config.warmup * config.num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.num_steps - warmup)))


def _bare_captions(pool: Pool) -> list[np.ndarray]:
    """For every subject the captions that say nothing but the subject, as indices."""
    bare = [np.flatnonzero((pool.mentioned == (subject, -1, -1, -1)).all(axis=1)) for subject in range(len(SUBJECTS))]
    if missing := [SUBJECTS[i] for i, captions in enumerate(bare) if not len(captions)]:
        raise ValueError(f"{len(pool.pictures)} pictures have no bare caption for {missing}: use more, 1000 or above.")
    return bare


def _captions(
    rng: np.random.Generator, pool: Pool, picture_B: np.ndarray, bare_captions: list[np.ndarray]
) -> np.ndarray:
    """Captions of a batch: one for each picture of its first half, and one bare caption for every subject in it.

    Bare captions keep the subject, which is harder to learn than colour, in every batch, and let half the pictures go
    without a caption of their own, which halves the text tower's share.  -> indices [C]
    """
    half = picture_B[: len(picture_B) // 2]
    own = half * CAPTIONS_PER_PICTURE + rng.integers(CAPTIONS_PER_PICTURE, size=len(half))
    bare = [rng.choice(bare_captions[subject]) for subject in np.unique(pool.attributes[picture_B, 0])]
    return np.concatenate([own, bare])


def _augment(rng: np.random.Generator, pool: Pool, picture_B: np.ndarray) -> np.ndarray:
    """Shifts pictures by up to two pixels, their brightness by up to a tenth, and normalises as preprocess_cfg says.

    -> float32 [B, 3, SIZE, SIZE]
    """
    size = pool.pictures.shape[-1]
    shift_B2 = rng.integers(-2, 3, size=(len(picture_B), 2))
    axis = np.arange(size)
    rows = np.clip(axis + shift_B2[:, :1], 0, size - 1)[:, None, :, None]
    columns = np.clip(axis + shift_B2[:, 1:], 0, size - 1)[:, None, None, :]
    images = pool.pictures[picture_B[:, None, None, None], np.arange(3)[:, None, None], rows, columns].astype(
        np.float32
    )
    gain = rng.uniform(0.9, 1.1, size=(len(picture_B), 1, 1, 1)).astype(np.float32)
    return images * (gain / 127.5) - 1


def _loss(config: PretrainConfig, similarity: torch.Tensor, matches: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    match config.loss, config.loss_form:
        case "clip", _:
            return clip_loss(similarity, matches, scale)
        case _, "exp":
            return pairwise_loss(similarity, matches)
        case _:
            return pairwise_loss_literal(similarity, matches)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workers.demo.pretrain", description="Pretrains the demo's tiny CLIP."
    )
    default = PretrainConfig()
    parser.add_argument("--out", type=Path, default=CLIP_FOLDER, help="folder to write (default: the demo's own)")
    parser.add_argument("--loss", choices=("clip", "pwcl"), default=default.loss)
    parser.add_argument("--loss-form", choices=("exp", "literal"), default=default.loss_form)
    parser.add_argument("--num-pictures", type=int, default=default.num_pictures)
    parser.add_argument("--num-steps", type=int, default=default.num_steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--lr", type=float, default=default.lr)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--processes", type=int, default=default.processes)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default=default.precision)
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = PretrainConfig(**options)
    result = pretrain(config, lambda step, loss: logger.info("step %d of %d: loss %.3f", step, config.num_steps, loss))
    save_clip(result.model, config.model, out)
    logger.info("wrote %s after %.0f s, last loss %.3f", out, result.seconds, np.mean(result.losses[-50:]))


if __name__ == "__main__":
    main()

"""Loading a CLIP and freezing it.  With its neighbours in this room, the only place that knows open_clip."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from workers.clip.config import BackboneConfig
from workers.clip.image_tower import ImageTower
from workers.clip.text_tower import TextTower
from workers.clip.tokens import ClassList, class_sentences, make_caption_list, make_class_list
from workers.clip.torchvision_ops import ensure_torchvision_ops
from workers.clip.trust import refuse_foreign_parts, refuse_pickle
from workers.data.dataset import Resize
from workers.data.roots import DataRoots
from workers.failures import FailureClass, classify

ensure_torchvision_ops()

import open_clip  # noqa: E402  (needs the operators declared above)
from open_clip import pretrained as open_clip_pretrained  # noqa: E402
from open_clip.transform import PreprocessCfg  # noqa: E402
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEMO_MODEL = Path(__file__).parents[1] / "demo" / "clip"


@dataclass(frozen=True)
class FrozenCLIP:
    """A CLIP whose weights never change: two towers with seams, a tokenizer, and how pixels become input."""

    config: BackboneConfig
    image: ImageTower
    text: TextTower
    embed_dim: int
    num_parameters: int
    """Of the whole backbone, for percentages."""
    logit_scale: float
    """Already exponentiated (100 for OpenAI's weights)."""
    logit_bias: float
    resize: Resize
    """How images are brought to the model's size."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    tokenize: Callable[..., torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Of the backbone's weights."""
        return self.num_parameters * self.image.dtype.itemsize

    def class_list(self, class_names: Sequence[str], template: str, *, num_prompt_tokens: int = 0) -> ClassList:
        """The tokenised sentences of a task's classes.  Refused if one does not fit beside `num_prompt_tokens`."""
        return make_class_list(
            class_sentences(class_names, template),
            self.tokenize,
            self.text.find_end,
            context_length=self.text.context_length,
            room=self.text.context_length - num_prompt_tokens,
            device=self.device,
        )

    def caption_list(self, captions: Sequence[str], *, num_prompt_tokens: int = 0) -> ClassList:
        """Tokenised captions; those that do not fit beside `num_prompt_tokens` are cut."""
        return make_caption_list(
            captions,
            self.tokenize,
            self.text.find_end,
            context_length=self.text.context_length,
            room=self.text.context_length - num_prompt_tokens,
            device=self.device,
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels in 0..1 -> what the tower expects.  [B, 3, H, W] fp32 -> the same."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        return (images - mean) / std


def load_clip(
    config: BackboneConfig,
    *,
    device: str | torch.device = "cpu",
    roots: DataRoots | None = None,
) -> FrozenCLIP:
    """Loads, checks, freezes and casts a backbone.

    A folder, each file in it, and a repository are held to `roots` if they are given.  Raises ValueError for a model
    that is unknown, has no weights or pickled ones, brings parts from elsewhere, does not fit (its image tower is no
    open_clip ViT, or its text tower no open_clip transformer), or whose activation is not the one its weights were
    trained with.
    """
    name, folder = _resolve(config, roots)
    _refuse_wrong_activation(config)
    try:
        if name.startswith(("local-dir:", "hf-hub:")):
            refuse_foreign_parts(config.model, _description(name))
        if name.startswith("hf-hub:"):
            refuse_pickle(
                config.model, [open_clip_pretrained.download_pretrained_from_hf(name.removeprefix("hf-hub:"))]
            )
        model = open_clip.create_model(name, pretrained=config.pretrained, require_pretrained=True)
        tokenize = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ImportError, KeyError, TypeError) as error:
        failure = classify(error)
        if failure is FailureClass.OUT_OF_MEMORY:
            raise
        told = f"backbone {config.model!r} ({config.pretrained or folder or 'hub'}) could not be loaded: {error}"
        raise (ConnectionError if failure is FailureClass.INFRASTRUCTURE else ValueError)(told) from error
    return freeze(model, tokenize, config, device=device)


def create_untrained(model_name: str) -> Any:
    """The model called `model_name` with random weights (on whatever torch device is current)."""
    name = f"local-dir:{DEMO_MODEL}" if model_name == "demo" else model_name
    _refuse_unknown(name)
    try:
        return open_clip.create_model(name, load_weights=False, device=torch.get_default_device())
    except RuntimeError as error:  # so open_clip says that a package of its own is missing
        raise ValueError(
            f"backbone model {model_name!r} cannot be built here: {error}. Use another backbone."
        ) from error


def freeze(
    model: Any,
    tokenize: Callable[..., torch.Tensor],
    config: BackboneConfig,
    *,
    device: str | torch.device = "cpu",
) -> FrozenCLIP:
    """Freezes an open_clip model in the compute dtype.  The model is taken over: it is cast and moved in place."""
    text_owner = refuse_misfit(model, config.model)
    logit_scale = float(model.logit_scale.detach().float().exp())
    logit_bias = float(model.logit_bias.detach()) if model.logit_bias is not None else 0.0
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    preprocess = asdict(PreprocessCfg()) | open_clip.model.get_model_preprocess_cfg(model)
    model = model.eval().requires_grad_(False).to(device=device, dtype=DTYPES[config.precision])
    plain_blocks = all(type(block) is ResidualAttentionBlock for block in model.visual.transformer.resblocks)
    plain_text_blocks = all(type(block) is ResidualAttentionBlock for block in text_owner.transformer.resblocks)
    pool_type = getattr(text_owner, "pool_type", None) or text_owner.text_pool_type
    eos_id = getattr(text_owner, "eos_id", None) or getattr(text_owner, "text_eos_id", None)
    image_size = preprocess["size"]
    return FrozenCLIP(
        config=config,
        image=ImageTower(model.visual, fast=plain_blocks),
        text=TextTower(
            text_owner,
            pool_type=pool_type,
            eos_id=eos_id,
            fast=plain_text_blocks and text_owner.attn_mask is not None and pool_type in ("argmax", "eos"),
        ),
        embed_dim=model.visual.output_dim,
        num_parameters=num_parameters,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        resize=Resize(
            size=image_size if isinstance(image_size, int) else image_size[0],
            interpolation=preprocess.get("interpolation", "bicubic"),
            mode=preprocess.get("resize_mode", "shortest"),
        ),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        device=torch.device(device),
        tokenize=tokenize,
    )


def refuse_misfit(model: Any, name: str) -> Any:
    """Raises ValueError with the reason if the towers have no seams we know; else returns the text tower's owner."""
    visual = model.visual
    if not isinstance(visual, VisionTransformer):
        raise ValueError(
            _misfit(
                name,
                f"its image tower is a {type(visual).__name__}, not open_clip's VisionTransformer",
            )
        )
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise ValueError(
            _misfit(
                name,
                "its image tower pools by attention, not from CLS or the mean of the patches",
            )
        )
    height, width = visual.image_size
    if height != width:
        raise ValueError(_misfit(name, f"its images are {height} x {width}, not square"))
    owner = getattr(model, "text", model)
    if owner is not model and not isinstance(owner, TextTransformer):
        raise ValueError(
            _misfit(
                name,
                f"its text tower is a {type(owner).__name__}, not open_clip's TextTransformer",
            )
        )
    if not hasattr(owner, "transformer") or not hasattr(owner, "positional_embedding"):
        raise ValueError(_misfit(name, "its text tower is no transformer with learned positions"))
    if getattr(owner, "cls_emb", None) is not None or visual.output_tokens or getattr(owner, "output_tokens", False):
        raise ValueError(
            _misfit(
                name,
                "it is built for captioning (an extra text token or per-token outputs)",
            )
        )
    if getattr(owner, "use_pad_mask", False):
        raise ValueError(_misfit(name, "its text tower masks padding, which prompts would shift"))
    return owner


def _misfit(name: str, reason: str) -> str:
    return (
        f"backbone model {name!r} does not fit: {reason}. "
        "Use an open_clip model with a ViT image tower and a transformer text tower, such as 'ViT-B-16-quickgelu'."
    )


def _resolve(config: BackboneConfig, roots: DataRoots | None) -> tuple[str, str | None]:
    """The name open_clip takes, and the local folder if there is one."""
    brings_weights = config.model == "demo" or config.model.startswith(("hf-hub:", "local-dir:"))
    if brings_weights and config.pretrained is not None:
        raise ValueError(
            f"backbone {config.model!r} brings its own weights: leave out pretrained={config.pretrained!r}."
        )
    if config.model == "demo":
        return f"local-dir:{DEMO_MODEL}", str(DEMO_MODEL)
    if config.model.startswith("local-dir:"):
        folder = config.model.removeprefix("local-dir:")
        folder = folder if roots is None else roots.check(folder)
        if not (Path(folder) / "open_clip_config.json").is_file():
            raise ValueError(
                f"backbone folder {folder!r} has no open_clip_config.json. Give a folder as open_clip's "
                "`push_to_hf_hub.save_for_hf` writes it: open_clip_config.json and open_clip_model.safetensors."
            )
        files = [str(path) for path in Path(folder).iterdir()]
        refuse_pickle(config.model, files)
        if roots is not None:
            for path in files:
                roots.check_path(path)
        return f"local-dir:{folder}", folder
    if config.model.startswith("hf-hub:"):
        if roots is not None:
            config.check(roots)
        return config.model, None
    _refuse_unknown(config.model)
    if config.pretrained is None:
        raise ValueError(f"backbone {config.model!r} needs `pretrained`: the tag of its weights, such as 'openai'.")
    if config.pretrained not in open_clip_pretrained.list_pretrained_tags_by_model(config.model):
        tags = open_clip_pretrained.list_pretrained_tags_by_model(config.model)
        raise ValueError(
            f"backbone {config.model!r} has no weights {config.pretrained!r}. It has: {', '.join(tags) or 'none'}."
        )
    return config.model, None


def _description(name: str) -> dict[str, Any] | None:
    try:
        return open_clip.get_model_config(name)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"backbone {name!r}: its open_clip_config.json is no description of a model: {error}. Save it anew."
        ) from error


def _refuse_unknown(name: str) -> None:
    if not name.startswith(("hf-hub:", "local-dir:")) and open_clip.get_model_config(name) is None:
        raise ValueError(
            f"backbone model {name!r} is not known to open_clip {open_clip.__version__}. "
            "Use a name from `open_clip.list_models()`, `hf-hub:ORG/NAME`, `local-dir:PATH` or `demo`."
        )


def _refuse_wrong_activation(config: BackboneConfig) -> None:
    """OpenAI's weights (and some others) were trained with QuickGELU; open_clip only warns when the model has GELU."""
    if config.pretrained is None:
        return
    tag = open_clip_pretrained.get_pretrained_cfg(config.model, config.pretrained)
    model_config = open_clip.get_model_config(config.model)
    if not tag or model_config is None:
        return
    wants, has = (
        bool(tag.get("quick_gelu", False)),
        bool(model_config.get("quick_gelu", False)),
    )
    if wants and not has:
        right = f"{config.model}-quickgelu"
        raise ValueError(
            f"backbone {config.model!r} with weights {config.pretrained!r}: these weights were trained with QuickGELU, "
            f"the model has GELU. Use {right!r}."
        )
    if has and not wants:
        right = config.model.removesuffix("-quickgelu")
        raise ValueError(
            f"backbone {config.model!r} with weights {config.pretrained!r}: these weights were trained with GELU, "
            f"the model has QuickGELU. Use {right!r}."
        )

"""Tiny models with random weights, made from their config classes and saved to folders: they test the plumbing and
know nothing. Every folder has the layout of a real one."""

from __future__ import annotations

from pathlib import Path

import torch

SUFFIX, START, END = "</w>", "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of bytes, in CLIP's order: printable bytes as themselves, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def tokenizer():
    """A tokenizer that knows single bytes: 256, 256 that end a word, and the two marks."""
    from transformers import CLIPTokenizer

    symbols = byte_symbols()
    words = [*symbols, *(symbol + SUFFIX for symbol in symbols), START, END]
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=77)


def text_encoder():
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=514, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )
    )  # fmt: skip


def vae(seed: int = 0):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    kinds = 4
    return AutoencoderKL(
        block_out_channels=(16, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * kinds,
        up_block_types=("UpDecoderBlock2D",) * kinds, latent_channels=4, norm_num_groups=8, sample_size=64,
    )  # fmt: skip


def unet(channels_in: int, seed: int = 0):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8, in_channels=channels_in, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip


def save_stable_diffusion(folder: Path, prediction: str = "epsilon") -> Path:
    """A Stable Diffusion pipeline as the real ones are laid out."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        skip_prk_steps=True, prediction_type=prediction, steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae(), text_encoder(), tokenizer(), unet(4), scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def save_view_model(folder: Path) -> Path:
    """An image-conditioned model with a camera projection, laid out as converted zero123 models are."""
    from diffusers import DDIMScheduler
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    vae().save_pretrained(folder / "vae")
    unet(8).save_pretrained(folder / "unet")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32,
            patch_size=8, projection_dim=32,
        )
    ).save_pretrained(folder / "image_encoder")  # fmt: skip
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder / "feature_extractor"
    )
    projection = torch.nn.Linear(36, 32)
    (folder / "clip_camera_projection").mkdir()
    save_file(
        {"proj.weight": projection.weight.detach(), "proj.bias": projection.bias.detach()},
        folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors",
    )
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP of images and texts."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    marks = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    CLIPModel(
        CLIPConfig(
            text_config={**small, "vocab_size": 514, "max_position_embeddings": 77, **marks},
            vision_config={**small, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    ).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_dpt(folder: Path) -> Path:
    """A DPT depth model; gives inverse depth up to scale and shift."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    DPTForDepthEstimation(
        DPTConfig(
            is_hybrid=False, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
            image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 32, 32],
            fusion_hidden_size=16,
        )
    ).save_pretrained(folder)  # fmt: skip
    DPTImageProcessor(size={"height": 64, "width": 64}, ensure_multiple_of=16).save_pretrained(folder)
    return folder


def save_depth_anything(folder: Path, kind: str = "relative") -> Path:
    """A Depth Anything model; `relative` gives inverse depth, `metric` depth in metres."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=Dinov2Config(
                hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14,
                out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
            ),
            patch_size=14, reassemble_hidden_size=32, neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16,
            head_hidden_size=16, depth_estimation_type=kind, max_depth=20 if kind == "metric" else 1,
        )
    ).save_pretrained(folder)  # fmt: skip
    DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True).save_pretrained(
        folder
    )
    return folder


def save_clipseg(folder: Path) -> Path:
    """A CLIPSeg segmenter by a word."""
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegTextConfig,
        CLIPSegVisionConfig,
        ViTImageProcessor,
    )  # fmt: skip

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    marks = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config=CLIPSegTextConfig(**small, vocab_size=514, max_position_embeddings=77, **marks).to_dict(),
            vision_config=CLIPSegVisionConfig(**small, image_size=32, patch_size=8).to_dict(),
            projection_dim=16, extract_layers=[0, 1, 2], reduce_dim=16, decoder_num_attention_heads=4,
            decoder_intermediate_size=32,
        )
    ).save_pretrained(folder)  # fmt: skip
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_sam(folder: Path) -> Path:
    """A SAM that takes a box."""
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(0)
    SamModel(
        SamConfig(
            vision_config=SamVisionConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=16,
                output_channels=16, window_size=2, global_attn_indexes=[1], mlp_dim=64, num_pos_feats=8,
            ).to_dict(),
            prompt_encoder_config=SamPromptEncoderConfig(
                hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4
            ).to_dict(),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=16, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=16
            ).to_dict(),
        )
    ).save_pretrained(folder)  # fmt: skip
    SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder

"""timm's checkpoints: the features are those that timm's own forward pass computes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from hf_relabel.config import BackboneConfig, FeatureConfig
from hf_relabel.errors import BackboneError
from hf_relabel.vision.backbone import Backbone, identify_backbone

SIZE, PATCH, DIM, HEADS = 64, 8, 128, 2
PATCHES = (SIZE // PATCH) ** 2

KINDS = {
    "vit_small_patch8_224.dino": ("ViTModel", 0),
    "vit_small_patch14_dinov2.lvd142m": ("Dinov2Model", 0),
    "vit_small_patch14_reg4_dinov2.lvd142m": ("Dinov2WithRegistersModel", 4),
    "vit_giant_patch14_dinov2.lvd142m": ("Dinov2Model", 0),
}


def timm_state(kind: str) -> dict[str, torch.Tensor]:
    """Random weights with timm's names."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    registers = KINDS[kind][1]
    state = {"cls_token": random(1, 1, DIM), "pos_embed": random(1, PATCHES + (not registers), DIM)}
    if registers:
        state["reg_token"] = random(1, registers, DIM)
    state |= {"patch_embed.proj.weight": random(DIM, 3, PATCH, PATCH), "patch_embed.proj.bias": random(DIM)}
    gated = "giant" in kind
    inner = 344 if gated else 4 * DIM  # transformers rounds 2/3 of the width to a multiple of 8
    linear = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM)}
    linear |= {"mlp.fc1": (inner * (2 if gated else 1), DIM), "mlp.fc2": (DIM, inner)}
    for block in range(2):
        for name, shape in linear.items():
            state[f"blocks.{block}.{name}.weight"], state[f"blocks.{block}.{name}.bias"] = (
                random(*shape),
                random(shape[0]),
            )
        for name in ("norm1", "norm2"):
            state[f"blocks.{block}.{name}.weight"], state[f"blocks.{block}.{name}.bias"] = 1 + random(DIM), random(DIM)
        if "dinov2" in kind:
            state[f"blocks.{block}.ls1.gamma"], state[f"blocks.{block}.ls2.gamma"] = 1 + random(DIM), 1 + random(DIM)
    return state | {"norm.weight": 1 + random(DIM), "norm.bias": random(DIM)}


def timm_forward(state: dict[str, torch.Tensor], kind: str, pixels: torch.Tensor) -> torch.Tensor:
    """The patch tokens as timm computes them (VisionTransformer.forward_features)."""
    registers = KINDS[kind][1]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (DIM,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    x = functional.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    if registers:
        x = torch.cat([state["cls_token"], state["reg_token"], x + state["pos_embed"]], dim=1)
    else:
        x = torch.cat([state["cls_token"], x], dim=1) + state["pos_embed"]
    for block in range(2):
        at = f"blocks.{block}."
        scales = [state.get(f"{at}ls{place}.gamma", torch.ones(())) for place in (1, 2)]
        parts = linear(norm(x, at + "norm1"), at + "attn.qkv").chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + scales[0] * linear(mixed, at + "attn.proj")
        hidden = linear(norm(x, at + "norm2"), at + "mlp.fc1")
        if "giant" in kind:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = functional.silu(gate) * up
        else:
            hidden = functional.gelu(hidden)
        x = x + scales[1] * linear(hidden, at + "mlp.fc2")
    return norm(x, "norm")[:, 1 + registers :]


def checkpoint(folder: Path, kind: str, state: dict[str, torch.Tensor]) -> BackboneConfig:
    """Write a folder as timm's repositories on the Hub are."""
    architecture, tag = kind.split(".")
    values = {"architecture": architecture, "num_features": DIM}
    values["pretrained_cfg"] = {"tag": tag, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    (folder / "config.json").write_text(json.dumps(values))
    save_file(state, folder / "model.safetensors")
    last = FeatureConfig("token", -1, True)
    return BackboneConfig(str(folder), image_size=SIZE, proposal_feature=FeatureConfig("key", -1), region_feature=last)


@pytest.mark.parametrize("kind", KINDS)
def test_the_features_are_those_of_timm(tmp_path, kind):
    state = timm_state(kind)
    config = checkpoint(tmp_path, kind, state)
    backbone = Backbone.load(config, torch.device("cpu"))
    pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(backbone(pixels).region, timm_forward(state, kind, pixels), rtol=1e-4, atol=1e-4)
    identity = identify_backbone(config)
    assert identity == backbone.identity
    assert identity["architecture"] == KINDS[kind][0]
    assert (identity["mean"], identity["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3(tmp_path, gated):
    """Renamed from a transformers model, because the rotary embedding is too long to write here."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    shape = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 64}
    act = "silu" if gated else "gelu"
    settings = DINOv3ViTConfig(
        **shape, patch_size=PATCH, num_register_tokens=4, use_gated_mlp=gated, hidden_act=act, query_bias=False,
        value_bias=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = DINOv3ViTModel(settings)
    model.save_pretrained(tmp_path / "hf")
    from safetensors.torch import load_file

    own = load_file(tmp_path / "hf/model.safetensors")
    names = {
        "embeddings.patch_embeddings.": "patch_embed.proj.", "embeddings.register_tokens": "reg_token",
        "embeddings.": "", "layer.": "blocks.", "attention.o_proj": "attn.proj", "layer_scale1.lambda1": "gamma_1",
        "layer_scale2.lambda1": "gamma_2", "mlp.gate_proj": "mlp.fc1_g",
        "mlp.up_proj": "mlp.fc1_x" if gated else "mlp.fc1", "mlp.down_proj": "mlp.fc2",
    }  # fmt: skip
    state: dict[str, torch.Tensor] = {}
    for key, value in own.items():
        if ".attention." in key and "o_proj" not in key:
            continue
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    for block in range(2):
        joint = [own[f"layer.{block}.attention.{name}_proj.weight"] for name in "qkv"]
        state[f"blocks.{block}.attn.qkv.weight"] = torch.cat(joint)
    config = checkpoint(tmp_path, "vit_small_patch16_dinov3.lvd1689m", state)
    pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.eval()(pixels).last_hidden_state[:, 5:]
    found = Backbone.load(config, torch.device("cpu"))(pixels).region
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def refusal(config: BackboneConfig) -> str:
    with pytest.raises(BackboneError) as caught:
        Backbone.load(config, torch.device("cpu"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_would_be_read_wrongly_is_refused(tmp_path):
    kind = "vit_small_patch14_dinov2.lvd142m"
    state = timm_state(kind)
    config = checkpoint(tmp_path, kind, state | {"blocks.0.attn.q_norm.weight": torch.ones(64)})
    assert "has the weight blocks.0.attn.q_norm.weight, which Dinov2Config does not have" in refusal(config)
    config = checkpoint(tmp_path, "vit_base_patch16_clip_224.openai", state)
    assert "is timm's 'vit_base_patch16_clip_224'" in refusal(config)
    config = checkpoint(tmp_path, "convnext_tiny.dinov3_lvd1689m", {"stem.0.weight": torch.ones(1)})
    assert "the vision transformers of DINO" in refusal(config)
    (tmp_path / "model.safetensors").unlink()
    assert "no model.safetensors" in refusal(config)


def test_pickles_of_the_original_code_are_refused_with_what_to_give_instead(tmp_path):
    torch.save({"cls_token": torch.ones(1)}, tmp_path / "dinov2_vits14_pretrain.pth")
    for place in (tmp_path, tmp_path / "dinov2_vits14_pretrain.pth"):
        message = refusal(BackboneConfig(str(place)))
        assert "is a PyTorch pickle of the original code" in message
        assert "timm/*dino*" in message

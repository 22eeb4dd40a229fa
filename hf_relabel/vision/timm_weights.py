"""Read timm's safetensors of DINO, DINOv2 and DINOv3 ViTs as the transformers models of the same architecture.

timm's `config.json` has the name of an architecture, but none of its sizes: they follow from the shapes of the weights.
Every weight must be one that the architecture has; anything else is refused, because it would silently be ignored.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_relabel.config.json_file import read_json
from hf_relabel.errors import BackboneError

CONFIG, WEIGHTS = "config.json", "model.safetensors"

_HEAD_WIDTHS = {4096: 128}
"""Channels per attention head by those of the model, where it is not 64: only DINOv3's ViT-7B differs."""

_HEAD_WIDTH = 64

_EPSILON = {"dinov3_vit": 1e-5}
"""Of the layer norms; 1e-6 in DINO and DINOv2."""

_IGNORED = re.compile(r"(head|fc_norm)\.(weight|bias)|mask_token|.*\.attn\.k_bias")
"""No patch feature depends on them; DINOv3 has no bias of the keys, and timm's is zero."""

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def read_timm_config(path: str | Path) -> dict[str, Any] | None:
    """Return timm's config.json; None if it is another file."""
    values = read_json(Path(path))
    is_timm = isinstance(values, dict) and "model_type" not in values and isinstance(values.get("architecture"), str)
    return values if is_timm else None


def statistics_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation from timm's config.json, under the names of a preprocessor_config.json."""
    stored = values.get("pretrained_cfg", values)
    return {"image_mean": stored.get("mean"), "image_std": stored.get("std")} if isinstance(stored, dict) else {}


def settings_of(name: str, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Make the transformers configuration of a timm model.

    Args:
        name: Name of the model, for messages.
        values: Its config.json.
        shapes: Shape of every weight.

    Raises:
        BackboneError: It is not a DINO ViT.
    """
    import transformers

    tag = f"{values['architecture']}.{(values.get('pretrained_cfg') or {}).get('tag', '')}"
    if "dino" not in tag or "blocks.0.attn.qkv.weight" not in shapes or "patch_embed.proj.weight" not in shapes:
        raise BackboneError(
            f"backbone.model: {name} is timm's {values['architecture']!r}; of timm's models, the vision transformers "
            "of DINO, DINOv2 and DINOv3 work (such as timm/vit_small_patch14_dinov2.lvd142m)"
        )
    hidden, _, patch, _ = shapes["patch_embed.proj.weight"]
    registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    blocks = 1 + max(int(match[1]) for match in map(_BLOCK.match, shapes) if match)
    common: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": max(1, hidden // _HEAD_WIDTHS.get(hidden, _HEAD_WIDTH)),
        "patch_size": patch,
    }
    if "pos_embed" not in shapes:
        gated = "blocks.0.mlp.fc1_g.weight" in shapes
        up = shapes[f"blocks.0.mlp.{'fc1_g' if gated else 'fc1'}.weight"][0]
        bias = "blocks.0.attn.q_bias" in shapes or "blocks.0.attn.qkv.bias" in shapes
        return transformers.DINOv3ViTConfig(
            **common,
            intermediate_size=up,
            num_register_tokens=registers,
            use_gated_mlp=gated,
            hidden_act="silu" if gated else "gelu",
            query_bias=bias,
            value_bias=bias,
            layer_norm_eps=_EPSILON["dinov3_vit"],
        )
    # DINOv2's position embeddings have an entry for the class token, except in timm's models with registers.
    places = shapes["pos_embed"][1] - (0 if registers else 1)
    common |= {"image_size": math.isqrt(places) * patch, "layer_norm_eps": 1e-6, "qkv_bias": True}
    if "blocks.0.ls1.gamma" not in shapes:
        return transformers.ViTConfig(**common, intermediate_size=shapes["blocks.0.mlp.fc1.weight"][0])
    # DINOv2's gated MLP stores both of its input projections in one weight, of twice the width of the output's.
    gated = shapes["blocks.0.mlp.fc1.weight"][0] == 2 * shapes["blocks.0.mlp.fc2.weight"][1]
    ratio = 4 if gated else shapes["blocks.0.mlp.fc1.weight"][0] // hidden
    common |= {"mlp_ratio": ratio, "use_swiglu_ffn": gated}
    if registers:
        return transformers.Dinov2WithRegistersConfig(**common, num_register_tokens=registers)
    return transformers.Dinov2Config(**common)


def converted(name: str, state: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """Rename timm's weights to those of the transformers checkpoint.

    Args:
        name: Name of the model, for messages.
        state: The weights by timm's names.
        settings: What `settings_of` returned.

    Raises:
        BackboneError: A weight does not belong to the architecture.
    """
    import torch

    kind = settings.model_type
    table = _IN_BLOCKS["dinov2" if kind.startswith("dinov2") else kind]
    if getattr(settings, "use_swiglu_ffn", False):
        table = table | {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
    result: dict[str, Any] = {}
    for key, value in state.items():
        if _IGNORED.fullmatch(key):
            continue
        match = _BLOCK.match(key)
        if match and match[2].startswith(("attn.qkv.", "attn.q_bias", "attn.v_bias")):
            result |= _projections(kind, int(match[1]), match[2], value)
            continue
        new = _block_name(table, _prefix(kind, int(match[1])), match[2]) if match else _outer_names(kind).get(key)
        if new is None:
            raise BackboneError(
                f"backbone.model: {name} has the weight {key}, which {type(settings).__name__} does not have; use the "
                "transformers checkpoint of this model"
            )
        result[new] = value
    place = "embeddings.position_embeddings"
    if kind == "dinov2_with_registers":
        # timm adds the class token's position embedding to the class token itself.
        result[place] = torch.cat([torch.zeros_like(result[place][:, :1]), result[place]], dim=1)
    return result


def _outer_names(kind: str) -> dict[str, str]:
    """Names of the weights outside the blocks."""
    v3 = kind == "dinov3_vit"
    patches, norm = ("patch_embeddings", "norm") if v3 else ("patch_embeddings.projection", "layernorm")
    names = {"cls_token": "embeddings.cls_token"}
    if not v3:
        names["pos_embed"] = "embeddings.position_embeddings"
    if kind in ("dinov3_vit", "dinov2_with_registers"):
        names["reg_token"] = "embeddings.register_tokens"
    for part in ("weight", "bias"):
        names[f"patch_embed.proj.{part}"] = f"embeddings.{patches}.{part}"
        names[f"norm.{part}"] = f"{norm}.{part}"
    return names


_IN_BLOCKS = {
    "dinov3_vit": {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc1_x": "mlp.up_proj",
        "mlp.fc1_g": "mlp.gate_proj",
        "mlp.fc2": "mlp.down_proj",
        "gamma_1": "layer_scale1.lambda1",
        "gamma_2": "layer_scale2.lambda1",
    },
    "dinov2": {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    },
    "vit": {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
}
"""Names of a block's weights in timm and in the transformers checkpoint, without `weight` and `bias`."""


def _prefix(kind: str, block: int) -> str:
    return f"layer.{block}." if kind == "dinov3_vit" else f"encoder.layer.{block}."


def _block_name(table: Mapping[str, str], prefix: str, rest: str) -> str | None:
    if rest in table:
        return prefix + table[rest]
    module, _, part = rest.rpartition(".")
    return f"{prefix}{table[module]}.{part}" if module in table and part in ("weight", "bias") else None


def _projections(kind: str, block: int, rest: str, value: Any) -> dict[str, Any]:
    """Split the joint projection of queries, keys and values; DINOv3's keys have no bias."""
    v3 = kind == "dinov3_vit"
    names = ("q_proj", "k_proj", "v_proj") if v3 else ("attention.query", "attention.key", "attention.value")
    prefix = f"{_prefix(kind, block)}attention."
    if rest in ("attn.q_bias", "attn.v_bias"):
        return {f"{prefix}{rest[5]}_proj.bias": value}
    part = rest.rpartition(".")[2]
    split = {f"{prefix}{name}.{part}": piece for name, piece in zip(names, value.chunk(3), strict=True)}
    if v3:
        split.pop(f"{prefix}k_proj.bias", None)
    return {key: piece.contiguous() for key, piece in split.items()}

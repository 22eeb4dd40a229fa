"""Label maps from classifiers: the mean of the cells is the classifier's answer, and the classes are the dataset's."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hf_relabel.cli import main
from hf_relabel.config import SourceConfig
from hf_relabel.errors import BackboneError
from hf_relabel.evaluation.datasets import from_source
from hf_relabel.labeling.label_maps import read_label_map, score_under_mask
from hf_relabel.training.cell_logits import cell_logits, check_head
from hf_relabel.training.label_maps import map_size_of

CNN = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
FAMILIES = {
    "ResNet": CNN,
    "RegNet": {**CNN, "groups_width": 8},
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "ConvNextV2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "EfficientNet": {"width_coefficient": 1.0, "depth_coefficient": 0.3, "hidden_dim": 1280},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "Dinov2": VIT,
    "Dinov2WithRegisters": {**VIT, "num_register_tokens": 2},
}


def classifier(kind: str, names: list[str], **settings: object) -> torch.nn.Module:
    """A random classifier whose norms are not trivial."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **settings, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_mean_of_the_cells_is_the_classifiers_answer(kind):
    model = classifier(kind, list("abcde"), **FAMILIES[kind])
    size = 56 if "Dino" in kind else 64
    check_head(model, kind, size)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cells = cell_logits(model, pixels)
        expected = model(pixel_values=pixels).logits
    assert cells.shape[:2] == (2, 5)
    assert cells.shape[2] == cells.shape[3] > 1
    torch.testing.assert_close(cells.mean(dim=(2, 3)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {**VIT, "patch_size": 8, "image_size": 64}),  # its head sees only the class token
        ("MobileNetV1", {"depth_multiplier": 0.25}),
    ],
)
def test_another_head_is_refused_or_exact(kind, settings):
    model = classifier(kind, list("abc"), **settings)
    if kind == "MobileNetV1":  # pooling and a linear layer, although it is not in the list
        check_head(model, kind, 64)
        return
    with pytest.raises(BackboneError, match=r"(?s)^ViT: .*global average pooling") as refused:
        check_head(model, kind, 64)
    assert "\n" not in str(refused.value)


@pytest.fixture
def model_folder(tmp_path) -> Path:
    """A saved ResNet that knows the classes of `image_folder` in another order, and one more."""
    names = ["triangle", "star", "square", "circle"]
    classifier("ResNet", names, **CNN).save_pretrained(tmp_path / "model")
    processor = {"image_processor_type": "ConvNextImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    import json

    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "model"


def test_the_command_writes_maps_in_the_datasets_class_order(image_folder, model_folder, tmp_path, capsys):
    out = tmp_path / "maps"
    command = ["label-maps", str(model_folder), "--images", str(image_folder), "--out", str(out), "--image-size", "64"]
    assert main(command) == 0
    assert "12 label maps written, 0 were there" in capsys.readouterr().out
    images = from_source(SourceConfig(path=str(image_folder)))
    model = transformers.ResNetForImageClassification.from_pretrained(model_folder).eval()
    names = [model.config.id2label[index] for index in range(4)]
    for index, image_id in enumerate(images.image_ids):
        found = read_label_map(out / Path(image_id).with_suffix(".pt"), len(images.class_names))
        assert found.shape[:2] == (2, 3), "the dataset's three classes"
        square = images.load(index).resize((64, 64), Image.Resampling.BILINEAR)
        pixels = (torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255 - 0.5) / 0.25
        with torch.inference_mode():
            logits = model(pixel_values=pixels[None]).logits[0]
        known = torch.stack([logits[names.index(name)] for name in images.class_names])
        whole = np.ones(found.shape[2:], bool)
        torch.testing.assert_close(score_under_mask(found, whole, 3), torch.softmax(known, dim=0), rtol=1e-2, atol=1e-3)
    (out / Path(images.image_ids[0]).with_suffix(".pt")).unlink()
    assert main(command) == 0
    assert "1 label maps written, 11 were there" in capsys.readouterr().out
    assert main([*command, "--top-k", "2"]) == 1
    assert "made with other settings (top_k" in capsys.readouterr().err
    assert str(tmp_path) not in (out / "label_maps.json").read_text()
    with torch.no_grad():
        model.classifier[1].bias += 1
    model.save_pretrained(model_folder)
    assert main(command) == 1, "maps of a model that was trained further are not kept"
    assert "made with other settings (weights_sha256" in capsys.readouterr().err


def test_classes_that_the_model_does_not_know_and_unreadable_images(image_folder, model_folder, tmp_path, capsys):
    import shutil

    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    (images / "circle/circle_0.png").write_bytes(b"junk")
    command = ["label-maps", str(model_folder), "--images", str(images), "--out", str(tmp_path / "maps")]
    assert main([*command, "--image-size", "64"]) == 0
    out = capsys.readouterr().out
    assert "11 label maps written" in out
    assert "1 images have no map: " in out
    (images / "square").rename(images / "hexagon")
    assert main([*command, "--overwrite"]) == 1
    assert "lacks 1 of the 3 classes of the images: 'hexagon'" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "size"), [("ResNet", 288), ("ConvNext", 288), ("Dinov2", 56)])
def test_the_default_size(kind, size):
    assert map_size_of(classifier(kind, list("ab"), **FAMILIES[kind])) == size


@pytest.mark.slow
def test_real_maps_name_the_class_of_real_photos(shared_data, tmp_path):
    """EfficientNet-Lite0's maps of 200 ImageNet photos, read and scored as the score stage does it."""
    from accelerate import Accelerator
    from efficientnet_lite import EfficientNetLite0, transform_of

    from hf_relabel.training.label_maps import make_label_maps

    side = 288  # what `map_size_of` gives for 224 px
    model = EfficientNetLite0(side)
    check_head(model, "EfficientNet-Lite0", side)
    images = from_source(SourceConfig(path=str(shared_data / "imagenet_samples")))
    columns = np.arange(len(images.class_names))
    made = make_label_maps(
        model, transform_of(side), images, columns, tmp_path, Accelerator(cpu=True), settings={}, batch_size=8
    )
    assert (made.written, made.unreadable.total()) == (200, 0)
    hits = 0
    for image_id, [label] in zip(images.image_ids, images.labels, strict=True):
        label_map = read_label_map(tmp_path / Path(image_id).with_suffix(".pt"), 1000)
        hits += int(score_under_mask(label_map, np.ones((9, 9), bool), 1000).argmax()) == label
    assert hits / len(images) >= 0.85

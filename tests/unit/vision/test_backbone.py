"""The backbone: its features compared with manual computation, determinism, and errors."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel

from hf_relabel.config import BackboneConfig, FeatureConfig
from hf_relabel.errors import BackboneError
from hf_relabel.vision import pretrained
from hf_relabel.vision.backbone import Backbone

CPU = torch.device("cpu")
SIZE, PATCH, DIM, BLOCKS = 96, 8, 32, 3  # the tiny models have size 64, so position embeddings are interpolated

ARCHITECTURES = {
    "tiny_dinov3": ("DINOv3ViTModel", 4),
    "tiny_dinov2": ("Dinov2Model", 0),
    "tiny_dinov2_registers": ("Dinov2WithRegistersModel", 2),
    "tiny_dino": ("ViTModel", 0),
}


@pytest.fixture(params=ARCHITECTURES)
def any_tiny(request: pytest.FixtureRequest) -> Path:
    """Each of the four supported architectures."""
    return request.getfixturevalue(request.param)


def config_of(folder: Path, **changes: object) -> BackboneConfig:
    features = {"region_feature": FeatureConfig("token"), "proposal_feature": FeatureConfig("key")}
    settings = {"image_size": SIZE, **features}
    return BackboneConfig(model=str(folder), **(settings | changes))


def load(folder: Path, pool: ThreadPoolExecutor | None = None, **changes: object) -> Backbone:
    return Backbone.load(config_of(folder, **changes), CPU, pool)


def pixels_of(count: int, side: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def reference(folder: Path, pixels: torch.Tensor) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor]:
    """The transformers model, its hidden states (the input of each block, then the last output), and its output."""
    model = AutoModel.from_pretrained(folder)
    options = {"interpolate_pos_encoding": True} if type(model).__name__ == "ViTModel" else {}
    states: list[torch.Tensor] = []
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    for block in blocks:
        block.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    blocks[-1].register_forward_hook(lambda _, __, output: states.append(output))
    with torch.no_grad():
        output = model(pixels, **options).last_hidden_state
    return model, tuple(states), output


def projection_of(model: torch.nn.Module, block: int, kind: str) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """A block's first LayerNorm and its projection, found by their names."""
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    modules = dict(blocks[block].named_modules())
    norm = modules.get("norm1") or modules["layernorm_before"]
    return norm, next(m for n, m in modules.items() if n.endswith((f".{kind[0]}_proj", f".{kind}")))


def test_identity_and_shapes(any_tiny, request):
    backbone = load(any_tiny)
    features = backbone(pixels_of(2))
    architecture, _ = ARCHITECTURES[request.node.callspec.params["any_tiny"]]
    assert backbone.grid == (12, 12)
    assert backbone.patch_size == PATCH
    assert features.proposal.shape == features.region.shape == (2, 144, backbone.region_dim)
    assert features.proposal.dtype == features.region.dtype == torch.float32
    assert backbone.identity == {
        "model": any_tiny.name,
        "revision": None,
        "weights_sha256": pretrained.weights_sha256(any_tiny),
        "architecture": architecture,
        "model_type": pretrained.read_settings(config_of(any_tiny)).model_type,
        "hidden_size": 32,
        "layers": BLOCKS,
        "image_size": SIZE,
        "patch_size": PATCH,
        "mean": list(pretrained.IMAGENET_MEAN),
        "std": list(pretrained.IMAGENET_STD),
        "dtype": "float32",
        "proposal_feature": {"kind": "key", "block": -1, "norm": True},
        "region_feature": {"kind": "token", "block": -1, "norm": True},
    }


@pytest.mark.parametrize("kind", ["key", "query", "value"])
@pytest.mark.parametrize("block", [0, 1, -1])
def test_projections_match_manual_computation(any_tiny, request, kind, block):
    _, registers = ARCHITECTURES[request.node.callspec.params["any_tiny"]]
    model, states, _ = reference(any_tiny, pixels_of(1))
    norm, linear = projection_of(model, block, kind)
    hidden = norm(states[block % BLOCKS])
    # DINOv3's rotary embedding comes after the projection and is not included.
    expected = hidden @ linear.weight.T + (0 if linear.bias is None else linear.bias)
    features = load(any_tiny, proposal_feature=FeatureConfig(kind=kind, block=block))(pixels_of(1))
    torch.testing.assert_close(features.proposal, expected[:, 1 + registers :].detach())


def test_the_last_token_is_the_models_output(any_tiny, request):
    _, registers = ARCHITECTURES[request.node.callspec.params["any_tiny"]]
    _, _, output = reference(any_tiny, pixels_of(1))
    threads = torch.get_num_threads()
    features = load(any_tiny)(pixels_of(1))
    assert torch.get_num_threads() == threads  # the setting is restored
    torch.testing.assert_close(features.region, output[:, 1 + registers :], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [0, 1, 2, -3])
def test_token_is_the_output_of_a_block_with_optional_norm(any_tiny, request, block):
    _, registers = ARCHITECTURES[request.node.callspec.params["any_tiny"]]
    model, states, _ = reference(any_tiny, pixels_of(1))
    final = model.norm if hasattr(model, "norm") else model.layernorm
    raw = states[block % BLOCKS + 1][:, 1 + registers :].detach()
    features = load(
        any_tiny,
        proposal_feature=FeatureConfig(kind="token", block=block, norm=False),
        region_feature=FeatureConfig(kind="token", block=block, norm=True),
    )(pixels_of(1))
    torch.testing.assert_close(features.proposal, raw, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features.region, final(raw).detach(), rtol=1e-5, atol=1e-6)


def test_blocks_after_the_last_needed_are_not_computed(any_tiny):
    first = FeatureConfig(kind="key", block=0)
    early = load(any_tiny, proposal_feature=first, region_feature=FeatureConfig("token", 1))
    full = load(any_tiny, proposal_feature=first, region_feature=FeatureConfig("token"))
    assert parameters(full) - parameters(early) == parameters(full, "blocks") // BLOCKS
    middle = load(any_tiny, proposal_feature=FeatureConfig(kind="token", block=1))
    assert torch.equal(early(pixels_of(1)).region, middle(pixels_of(1)).proposal)


def parameters(backbone: Backbone, part: str = "all") -> int:
    model = backbone._model
    if part == "blocks":
        model = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    return sum(parameter.numel() for parameter in model.parameters())


def test_features_do_not_depend_on_the_batch(any_tiny):
    pixels = pixels_of(7)
    torch.set_num_threads(2)
    alone = [load(any_tiny)(image) for image in pixels.split(1)]
    with ThreadPoolExecutor(3) as pool:
        backbone = load(any_tiny, pool)
        together = backbone(pixels)
        halves = [backbone(half) for half in pixels.split(4)]
    torch.set_num_threads(1)
    for name in ("proposal", "region"):
        expected = torch.cat([getattr(features, name) for features in alone])
        assert torch.equal(getattr(together, name), expected)
        assert torch.equal(torch.cat([getattr(features, name) for features in halves]), expected)


def test_threads_do_not_mix_features(tiny_dinov3):
    """With several callers at the same time, each gets the features of its own image."""
    backbone = load(tiny_dinov3)
    images = pixels_of(12).split(1)
    expected = [backbone(image).region for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = [features.region for features in pool.map(backbone, images)]
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("side", [8, 64, 104])
def test_image_sizes_that_are_multiples_of_the_patch_size(any_tiny, side):
    features = load(any_tiny, image_size=side)(pixels_of(1, side))
    assert features.region.shape[1] == (side // PATCH) ** 2
    assert torch.isfinite(features.region).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision_is_close_and_returns_float32(any_tiny, dtype, tolerance):
    exact, half = load(any_tiny)(pixels_of(2)), load(any_tiny, dtype=dtype)(pixels_of(2))
    assert half.proposal.dtype == half.region.dtype == torch.float32
    assert not torch.equal(half.region, exact.region)
    assert (half.region - exact.region).abs().max() < tolerance * exact.region.abs().max()


def test_rotary_frequencies_keep_their_precision(tiny_dinov3):
    exact = AutoModel.from_pretrained(tiny_dinov3).rope_embeddings.inv_freq
    assert torch.equal(load(tiny_dinov3, dtype="bfloat16")._model.rope_embeddings.inv_freq, exact)


def test_a_checkpoint_in_half_precision_is_read_as_float32(tiny_dinov2, tmp_path):
    AutoModel.from_pretrained(tiny_dinov2).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load(tmp_path)._model.parameters()} == {torch.float32}


def test_preprocessing_matches_manual_computation(tiny_dinov2):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    values = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)) / 255
    expected = (values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = load(tiny_dinov2).preprocess(image)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels.numpy(), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)


def test_preprocessing_is_pickled_without_the_model(tiny_dinov2):
    preprocess = load(tiny_dinov2).preprocess
    assert len(pickle.dumps(preprocess)) < 1000
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess


def copy_with(folder: Path, target: Path, preprocessor: object) -> Path:
    shutil.copytree(folder, target)
    text = preprocessor if isinstance(preprocessor, str) else json.dumps(preprocessor)
    (target / "preprocessor_config.json").write_text(text)
    return target


def test_mean_and_standard_deviation_come_from_the_model(tiny_dinov3, tmp_path):
    mean, std = [0.430, 0.411, 0.296], [0.213, 0.156, 0.143]
    folder = copy_with(tiny_dinov3, tmp_path / "model", {"image_mean": mean, "image_std": std})
    backbone = load(folder)
    assert (backbone.identity["mean"], backbone.identity["std"]) == (mean, std)
    gray = backbone.preprocess(Image.new("RGB", (9, 9), (255, 0, 0)))
    torch.testing.assert_close(gray[:, 0, 0], torch.tensor([(1 - 0.430) / 0.213, -0.411 / 0.156, -0.296 / 0.143]))


def test_hash_of_the_weights_does_not_depend_on_the_folder(tiny_dinov2, tmp_path):
    moved = shutil.copytree(tiny_dinov2, tmp_path / "moved")
    (moved / "notes.txt").write_text("no weights")
    assert load(moved).identity["weights_sha256"] == load(tiny_dinov2).identity["weights_sha256"]
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load(moved).identity["weights_sha256"] != load(tiny_dinov2).identity["weights_sha256"]


def refusal(folder: Path | str, **changes: object) -> str:
    with pytest.raises(BackboneError) as caught:
        load(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_image_size_that_is_not_a_multiple_of_the_patch_size(tiny_dinov3):
    message = refusal(tiny_dinov3, image_size=100)
    assert message.startswith("backbone.image_size:")
    assert "got 100" in message
    assert "96 and 104" in message
    assert "nearest: 8" in refusal(tiny_dinov3, image_size=5)


@pytest.mark.parametrize("name", ["proposal", "region"])
@pytest.mark.parametrize("block", [3, -4])
def test_block_that_does_not_exist(tiny_dinov3, name, block):
    message = refusal(tiny_dinov3, **{f"{name}_feature": FeatureConfig("token", block)})
    assert message.startswith(f"backbone.{name}_feature.block:")
    assert "0 to 2" in message
    assert f"got {block}" in message


def test_patches_that_are_not_square(tiny_dinov2, tmp_path):
    folder = changed(tiny_dinov2, tmp_path / "model", patch_size=[8, 16])
    assert "only square patches" in refusal(folder)


def test_missing_folder(tmp_path):
    assert "no folder" in refusal(tmp_path / "absent")
    assert "no folder" in refusal("./absent")
    assert "no folder" in refusal("a/b/c")


def test_a_folder_without_a_model(tmp_path):
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "file").touch()
    assert "is a file" in refusal(tmp_path / "file")


def changed(folder: Path, target: Path, **settings: object) -> Path:
    """Copy a model and change its config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | settings
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_missing_weights(tiny_dinov2, tmp_path):
    folder = changed(tiny_dinov2, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert "does not contain a readable model" in refusal(folder)


def test_damaged_weights(tiny_dinov2, tmp_path):
    folder = changed(tiny_dinov2, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "does not contain a readable model" in refusal(folder)


def test_damaged_json(tiny_dinov2, tmp_path):
    folder = changed(tiny_dinov2, tmp_path / "model")
    (folder / "config.json").write_text("{")
    assert "does not contain a readable model" in refusal(folder)
    folder = copy_with(tiny_dinov2, tmp_path / "other", "{")
    assert "does not contain a readable model" in refusal(folder)


@pytest.mark.parametrize(
    "stored",
    [{"image_mean": [0.5]}, {"image_mean": 0.5}, {"image_std": [0.2, 0.2, 0]}, {"image_mean": ["a", "b", "c"]}],
)
def test_invalid_mean_or_standard_deviation(tiny_dinov2, tmp_path, stored):
    assert "three numbers" in refusal(copy_with(tiny_dinov2, tmp_path / "model", stored))


def test_weights_that_do_not_match_the_configuration(tiny_dinov2, tmp_path):
    deeper = refusal(changed(tiny_dinov2, tmp_path / "deeper", num_hidden_layers=4))
    assert "do not match its config.json" in deeper
    assert "encoder.layer.3." in deeper
    wider = refusal(changed(tiny_dinov2, tmp_path / "wider", mlp_ratio=3))
    assert "do not match its config.json: 9 are missing or have another shape" in wider


def test_unsupported_architecture(tiny_dinov2, tmp_path):
    message = refusal(changed(tiny_dinov2, tmp_path / "model", model_type="swin"))
    assert "'swin'" in message
    assert all(architecture in message for architecture, _ in ARCHITECTURES.values())


def test_code_in_a_checkpoint_is_never_run(tiny_dinov2, tmp_path):
    """A checkpoint with an unknown model type and code: the code is not imported, and the user is not asked."""
    remote = {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    folder = changed(tiny_dinov2, tmp_path / "model", **remote)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_a_classifiers_checkpoint_is_read_without_its_head(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": DIM, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "intermediate_size": 64}
    ViTForImageClassification(ViTConfig(**shape, patch_size=PATCH, image_size=64)).save_pretrained(tmp_path)
    assert load(tmp_path)(pixels_of(1)).region.shape == (1, 144, DIM)


def test_a_configuration_that_asks_for_hidden_states(tiny_dinov2, tmp_path):
    folder = changed(tiny_dinov2, tmp_path / "model", output_hidden_states=True)
    pixels = pixels_of(1)
    assert torch.equal(load(folder)(pixels).region, load(tiny_dinov2)(pixels).region)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_features_are_close(any_tiny):
    pixels = pixels_of(5)
    config = config_of(any_tiny)
    device = Backbone.load(config, torch.device("cuda"))(pixels)
    assert device.region.is_cuda
    torch.testing.assert_close(device.region.cpu(), load(any_tiny)(pixels).region, rtol=1e-2, atol=1e-2)
    half = Backbone.load(replace(config, dtype="bfloat16"), torch.device("cuda"))(pixels)
    assert half.region.dtype == torch.float32

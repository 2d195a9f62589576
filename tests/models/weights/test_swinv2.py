"""Swin V2 by the names of Hugging Face, timm and Microsoft's release, and what files say of it."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.models.weights.torch_files import write_zip
from tests.reference.swinv2_cases import CASES, TIMM_CASES, draw, image_shape, pictures, weight
from trainer.config import UserError
from trainer.models.swinv2 import build_swinv2, relative_positions
from trainer.models.swinv2_backbone import SwinV2Backbone
from trainer.models.weights import load_swinv2
from trainer.models.weights.files import read_arrays
from trainer.models.weights.swinv2 import hugging_face, load
from trainer.models.weights.swinv2_sizes import Sizes, read_sizes

REFERENCE = Path(__file__).parents[2] / "reference"
TIMM = np.load(REFERENCE / "swinv2_timm_goldens.npz")
HUGGING_FACE = np.load(REFERENCE / "swinv2_goldens.npz")

PLAIN = Sizes(16, (2, 2), (2, 4), 4, window=4, image_size=64)


def drawn(shapes: str) -> dict[str, np.ndarray]:
    return {name: weight(name, tuple(shape)) for name, shape in json.loads(shapes).items()}


def timm_backbone(case: str) -> SwinV2Backbone:
    values = TIMM_CASES[case]
    return SwinV2Backbone(
        input_shape=image_shape(case),
        embed_dim=values["embed_dim"],
        depths=values["depths"],
        num_heads=values["num_heads"],
        window_size=values["window_size"],
        pretrained_window_sizes=values["pretrained_window_sizes"],
    )


def released(arrays: dict[str, np.ndarray], case: str) -> dict[str, np.ndarray]:
    """timm's names -> those of Microsoft's release, with what it holds besides."""
    values = TIMM_CASES[case]
    found = {}
    for name, array in arrays.items():
        merging = re.fullmatch(r"layers\.(\d+)\.(downsample\..+)", name)
        name = f"layers.{int(merging[1]) - 1}.{merging[2]}" if merging else name
        found[name.replace("head.fc.", "head.")] = array
    for stage, unit in enumerate(values["pretrained_window_sizes"]):
        high, wide = (
            min(values["window_size"], side // 4 // 2**stage) for side in image_shape(case)[:2]
        )
        table, pairs = relative_positions((high, wide), unit)
        table = table.reshape(1, 2 * high - 1, 2 * wide - 1, 2)
        for block in range(values["depths"][stage]):
            lead = f"layers.{stage}.blocks.{block}"
            found[f"{lead}.attn.relative_coords_table"] = table
            found[f"{lead}.attn.relative_position_index"] = pairs
    found["layers.0.blocks.1.attn_mask"] = np.zeros((4, 16, 16), np.float32)
    return found


@pytest.mark.parametrize("naming", ["timm", "released"])
@pytest.mark.parametrize("case", TIMM_CASES)
def test_maps_are_those_of_timm(case, naming):
    arrays = drawn(str(TIMM[f"{case}|shapes"]))
    if naming == "released":
        arrays = released(arrays, case)
    backbone = timm_backbone(case)
    load_swinv2(backbone, arrays)
    stages = [backbone.get_layer(name).output for name in backbone.pyramid_level_inputs.values()]
    last, *found = keras.Model(backbone.input, [backbone.output, *stages])(pictures(case))
    np.testing.assert_allclose(last, TIMM[f"{case}|map"], atol=1e-4)
    for number, stage in enumerate(found, start=1):
        np.testing.assert_allclose(stage, TIMM[f"{case}|stage {number}"], atol=1e-4)


def test_a_mapping_that_does_not_fit_changes_nothing():
    backbone = timm_backbone("timm")
    before = backbone.get_weights()
    arrays = drawn(str(TIMM["timm|shapes"]))
    shifted = {
        name.replace("layers.1.downsample", "layers.0.downsample"): array
        for name, array in arrays.items()
    }
    for wrong, words in (
        ({n: a for n, a in arrays.items() if "qkv" not in n}, "has no weights for .*query/kernel"),
        ({**arrays, "layers.0.blocks.0.attn.k_bias": np.zeros(16)}, "does not: layers.*k_bias"),
        ({**arrays, "swinv2.layernorm.bias": np.zeros(64)}, "two arrays for layernorm.bias"),
        ({**arrays, "layers.0.blocks.0.attn.qkv.weight": np.zeros((49, 16))}, r"\(16, 17\)"),
        # One merging as Microsoft has it, the other as timm does.
        (shifted, "has no weights for stage2_merging"),
    ):
        with pytest.raises(UserError, match=words):
            load_swinv2(backbone, wrong, "the file")
    for now, then in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_trunk_a_backbone_and_a_loaded_one_take_the_same_mapping(tmp_path):
    case, values = "plain", CASES["plain"]
    arrays = drawn(str(HUGGING_FACE[f"{case}|shapes"]))
    backbone = SwinV2Backbone(
        input_shape=(64, 64, 3), embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4
    )
    backbone.save(tmp_path / "random.keras")
    again = keras.saving.load_model(tmp_path / "random.keras")
    trunk = build_swinv2(
        keras.Input((64, 64, 3)), embed_dim=16, depths=(2, 2), heads=(2, 4), window=4
    )
    for model in (backbone, again, trunk):
        load_swinv2(model, {f"swinv2.{name}": array for name, array in arrays.items()})
        tokens = np.asarray(model(pictures(case))).reshape(2, -1, 2 * values["embed_dim"])
        np.testing.assert_allclose(tokens, HUGGING_FACE[f"{case}|last"], atol=1e-4)


def test_windows_that_a_file_was_not_trained_with_are_told(tmp_path, caplog):
    path = tmp_path / "model.pth"
    write_zip(path, released(drawn(str(TIMM["timm|shapes"])), "timm"))
    numbers = {"embed_dim": 16, "depths": (2, 2, 2), "heads": (2, 4, 4), "window": 4}
    load(build_swinv2(keras.Input((64, 64, 3)), **numbers), path)
    assert "windows of (8, 8, 4) tokens, the trunk measures positions by (4, 4, 4)" in caplog.text
    caplog.clear()
    told = build_swinv2(keras.Input((64, 64, 3)), **numbers, pretrained_windows=(8, 8, 4))
    load(told, path)
    assert not caplog.records


def test_a_safetensors_file_of_half_precision_is_read(tmp_path):
    from safetensors.numpy import save_file

    save_file({"norm.bias": np.array([0.5, -2], np.float16)}, tmp_path / "model.safetensors")
    arrays = hugging_face(read_arrays(tmp_path / "model.safetensors"), "it")
    assert arrays["layernorm.bias"].dtype == np.float32
    np.testing.assert_array_equal(arrays["layernorm.bias"], [0.5, -2])


def plain_arrays() -> dict[str, np.ndarray]:
    return drawn(str(HUGGING_FACE["plain|shapes"]))


def test_sizes_are_found_in_hugging_faces_config(tmp_path):
    config = {
        "model_type": "swinv2", "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "patch_size": 4, "window_size": 8, "image_size": 64, "pretrained_window_sizes": [6, 3],
    }  # fmt: skip
    path = str(tmp_path / "model.safetensors")
    told = tmp_path / "config.json"
    told.write_text(json.dumps(config))
    assert read_sizes(plain_arrays(), path) == Sizes(
        16, (2, 2), (2, 4), 4, window=8, image_size=64, pretrained_windows=(6, 3)
    )
    told.write_text(json.dumps(config | {"pretrained_window_sizes": [0, 0]}))
    assert read_sizes(plain_arrays(), path).pretrained_windows == ()
    for changes, words in (
        ({"embed_dim": 96}, "embed_dim is 96, in the weights 16"),
        ({"depths": [2, 6]}, r"depths is \[2, 6\], in the weights \(2, 2\)"),
        ({"model_type": "vit"}, "is of a vit"),
        ({"window_size": None}, "cannot be read"),
        ({"pretrained_window_sizes": [6]}, "1 pretrained_window_sizes"),
        ({"architecture": "resnet50"}, "is of resnet50, not of a published Swin V2"),
    ):
        told.write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=words):
            read_sizes(plain_arrays(), path)
    told.write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        read_sizes(plain_arrays(), path)


@pytest.mark.parametrize(
    ("name", "window", "image_size", "pretrained"),
    [
        ("swinv2_tiny_window8_256", 8, 256, ()),
        ("swinv2_base_window12to24_192to384.ms_in22k_ft_in1k", 24, 384, (12, 12)),
        ("swinv2-large-patch4-window12-192-22k", 12, 192, ()),
        ("swinv2_base_patch4_window12to16_192to256_22kto1k_ft", 16, 256, (12, 12)),
    ],
)
@pytest.mark.parametrize("where", ["config", "file", "folder"])
def test_sizes_are_found_in_a_published_name(tmp_path, name, window, image_size, pretrained, where):
    path = {"file": f"{name}.pth", "folder": f"{name}/model.safetensors"}.get(where, "model.pth")
    if where == "config":
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    sizes = read_sizes(plain_arrays(), str(tmp_path / path))
    assert (sizes.window, sizes.image_size) == (window, image_size)
    assert sizes.pretrained_windows == pretrained


@pytest.mark.parametrize("case", ["timm", "timm pretrained windows"])
def test_sizes_are_found_in_the_tables_of_positions(case, tmp_path):
    values = TIMM_CASES[case]
    arrays = released(drawn(str(TIMM[f"{case}|shapes"])), case)
    sizes = read_sizes(hugging_face(arrays, "it"), str(tmp_path / "model.pth"))
    assert (sizes.depths, sizes.heads) == (values["depths"], values["num_heads"])
    assert sizes.window == values["window_size"]
    # The third map of 64 pixels has 4 tokens a side.
    assert sizes.units() == {"timm": (8, 8, 4)}.get(case, (4, 3))


def test_a_window_that_nothing_tells_has_to_be_given(tmp_path):
    path = str(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"does not tell the side of its windows.*--window"):
        read_sizes(plain_arrays(), path)
    assert read_sizes(plain_arrays(), path, 12).image_size == 192
    assert read_sizes(plain_arrays(), path, 8).image_size == 256
    assert read_sizes(plain_arrays(), path, 8, 64).image_size == 64
    with pytest.raises(UserError, match=r"holds no Swin V2 .*: its first is conv\.weight"):
        read_sizes({"conv.weight": draw("conv", (3, 3, 3, 3))}, path, 8)


def test_other_windows_and_pictures_keep_the_unit_of_positions():
    assert PLAIN.resized(None, None) == PLAIN
    # Larger windows: a step to the next token stays as far as it was.
    assert PLAIN.resized(8, None) == Sizes(16, (2, 2), (2, 4), 4, 8, 64, (4, 4))
    # The second map of smaller pictures is smaller than the window it was trained with.
    assert PLAIN.resized(None, 24) == Sizes(16, (2, 2), (2, 4), 4, 4, 24, (4, 4))
    assert PLAIN.resized(None, 32) == Sizes(16, (2, 2), (2, 4), 4, 4, 32)
    grown = Sizes(16, (2, 2), (2, 4), 4, 8, 64, (4, 0))
    assert grown.resized(16, 128).pretrained_windows == (4, 8)

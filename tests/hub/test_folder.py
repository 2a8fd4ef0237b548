"""Which weight files of a folder are read, and whether they are complete."""

import json

import mlx.core as mx
import pytest

from dflash_mlx import load, load_drafter
from dflash_mlx.errors import MissingFilesError, WeightsError
from dflash_mlx.hub.folder import missing_files, weight_bytes, weight_files


def write_index(folder, weight_map):
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": weight_map}))


def test_weights_under_other_names_are_not_counted(folder):
    size = (folder / "model.safetensors").stat().st_size
    assert weight_bytes(folder) == size
    for name in ("consolidated.safetensors", "stray.safetensors"):
        with (folder / name).open("wb") as file:
            file.truncate(900 * 2**30)
    assert weight_bytes(folder) == size
    assert load(str(folder), "none")[0].model is not None


def test_a_drafter_under_another_name_is_found(folder):
    drafter = folder / "drafter"
    (drafter / "model.safetensors").rename(drafter / "dspark.safetensors")
    assert [file.name for file in weight_files(drafter)] == ["dspark.safetensors"]
    assert load_drafter(drafter) is not None


def test_an_index_from_before_a_merge(folder):
    names = list(mx.load(str(folder / "model.safetensors")))
    write_index(
        folder, {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    )
    assert missing_files(folder) == ""
    assert load(str(folder))[0].drafter is not None


def test_an_index_that_names_a_part_merged_into_the_other(folder):
    names = list(mx.load(str(folder / "model.safetensors")))
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    write_index(
        folder, {n: f"model-{1 + i % 2}.safetensors" for i, n in enumerate(names)}
    )
    assert missing_files(folder) == ""
    # A part that is really missing is named.
    weights = mx.load(str(folder / "model-1.safetensors"))
    weights.pop(names[1])
    mx.save_safetensors(str(folder / "model-1.safetensors"), weights)
    assert missing_files(folder) == "model-2.safetensors"


def test_tensors_that_an_outdated_index_hides_are_named(folder):
    weights = mx.load(str(folder / "model.safetensors"))
    weights.pop("model.layers.3.mlp.up_proj.weight")
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    write_index(folder, {"a": "model-1.safetensors"})
    with pytest.raises(WeightsError, match="up_proj"):
        load(str(folder))


def test_a_link_to_nothing(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blob")
    with pytest.raises(MissingFilesError, match=r"model\.safetensors \(a link to"):
        load(str(folder))


def test_weights_of_pytorch_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MissingFilesError, match="cannot read pytorch_model.bin"):
        load(str(folder))

import hashlib

import pytest

from tcaq_core.errors import CheckpointUnsafe, ModelNotFound
from worker.context import Context
from worker.models import fetch_model


def test_a_local_model_is_its_folder_and_the_hash_of_its_weights(
    context: Context,
) -> None:
    model = fetch_model("tiny", context.settings)
    assert model.folder == context.settings.models_directory / "tiny"
    weights = model.folder / "unet" / "diffusion_pytorch_model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert model.info["reference"] == "tiny"
    assert model.info["revision"] is None
    assert model.info["weights_sha256"] == sha256
    assert model.info["num_parameters"] > 1000


def test_a_worker_that_may_not_use_the_hub_says_so(context: Context) -> None:
    with pytest.raises(ModelNotFound, match="does not fetch"):
        fetch_model("owner/name@" + "0" * 40, context.settings)


@pytest.mark.parametrize("reference", ["", "../tiny", "/etc", "nowhere", "a/b"])
def test_nothing_outside_the_models_folder_can_be_named(
    context: Context, reference: str
) -> None:
    with pytest.raises(ModelNotFound):
        fetch_model(reference, context.settings)


def test_pickled_weights_are_never_loaded(context: Context) -> None:
    unet = context.settings.models_directory / "tiny" / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    weights.rename(unet / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointUnsafe):
        fetch_model("tiny", context.settings)

"""Checkpoints in plain diffusers: import this module, then `from_pretrained` as usual.

    import tcaq_core.integrations.diffusers

    pipeline = DDIMPipeline.from_pretrained("checkpoint")
    unet = UNet2DModel.from_pretrained("checkpoint")

The import registers the quantization method ``tcaq`` with diffusers. config.json names
it and describes the packed tensors beside it, so nothing else of a checkpoint is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
)
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from diffusers.utils import is_accelerate_available
from torch import Tensor, nn

from tcaq_core.checkpoint import METADATA
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import (
    CheckpointShapeMismatch,
    CheckpointUnsafe,
    ModelUnsupported,
)
from tcaq_core.integrations.late_execution import Kind, LateExecution
from tcaq_core.manifest import DenoiserConfig
from tcaq_core.runtime.integer import Execution
from tcaq_core.state import digest_of, load_state

_CHOSEN: ContextVar[Kind | None] = ContextVar("execution", default=None)


@contextmanager
def execution(kind: Kind) -> Iterator[None]:
    """Load with this execution inside the block, whatever config.json says.

    diffusers has no argument for it: it ignores a quantization_config that is given
    for a model that is quantized already.
    """
    token = _CHOSEN.set(kind)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


class Method(str, Enum):  # noqa: UP042  (diffusers' own enumeration is one of these)
    """The name in ``quant_method``; diffusers asks for its ``value``."""

    TCAQ = "tcaq"


class TCAQConfig(QuantizationConfigMixin):  # type: ignore[misc]  # diffusers is Any
    """The ``quantization_config`` of a packed denoiser, as diffusers passes it on.

    Raises:
        ModelUnsupported: written by another version, or malformed.
    """

    quant_method = Method.TCAQ

    def __init__(self, **fields: Any) -> None:  # noqa: ANN401  (parsed JSON)
        self.described = DenoiserConfig.read(fields)

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json holds."""
        return self.described.model_dump(mode="json")

    def to_diff_dict(self) -> dict[str, Any]:
        """Return all of it: no field has a default worth leaving out."""
        return self.to_dict()

    def __repr__(self) -> str:
        return f"TCAQConfig(sha256={self.described.sha256!r})"


class TCAQQuantizer(DiffusersQuantizer):  # type: ignore[misc]  # diffusers is Any
    """Turns a UNet2DModel that diffusers just built into the packed, quantized one.

    The model has it as ``unet.hf_quantizer``; `denoiser` are its quantized layers.
    """

    # diffusers then refuses to quantize a full-precision model with it.
    requires_calibration = True

    quantization_config: TCAQConfig
    denoiser: QuantizedDenoiser

    def __init__(self, quantization_config: TCAQConfig, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(quantization_config, **kwargs)
        self._packed: dict[str, Tensor] = {}

    @property
    def execution(self) -> Execution:
        """How the model executes, on the device where it is or was first called."""
        return self._late.begin()

    @property
    def is_serializable(self) -> bool:
        """Whether `save_pretrained` works: it writes the tensors that were loaded."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether it can be trained: its weights are codes."""
        return False

    @property
    def supports_parallel_loading(self) -> bool:
        """Whether shards may come from several threads: they are collected in one."""
        return False

    def validate_environment(
        self, *, torch_dtype: torch.dtype | None = None, device_map: object = None
    ) -> None:
        """Refuse what could not be executed as it was evaluated.

        Raises:
            ModelUnsupported: another type than float32, a device map that splits the
                model, or accelerate is missing.
        """
        if not is_accelerate_available():
            raise ModelUnsupported(
                "diffusers loads quantized models with accelerate only.",
                hint="pip install accelerate",
            )
        if torch_dtype not in {None, torch.float32}:
            raise ModelUnsupported(
                f"This denoiser was evaluated in float32, not in {torch_dtype}.",
                hint="Leave torch_dtype out; the weights are packed integers anyway.",
            )
        places = device_map.values() if isinstance(device_map, dict) else ()
        if len({str(place) for place in places}) > 1 or "disk" in places:
            raise ModelUnsupported(
                "A quantized denoiser lives on one device.",
                hint='Use device_map="cpu", device_map="cuda", or none.',
            )

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        """Return float32, the type of everything that is not packed."""
        del torch_dtype
        return torch.float32

    def maybe_update_loaded_keys(
        self, loaded_keys: list[str], checkpoint_files: list[Any]
    ) -> list[str]:
        """Return nothing: diffusers is to compare no packed name with the model's.

        Raises:
            CheckpointUnsafe: the weights are not in safetensors.
        """
        del loaded_keys
        for file in checkpoint_files:
            if not str(file).endswith(".safetensors"):
                raise CheckpointUnsafe(
                    f"{file} is not a safetensors file.",
                    hint="Download the checkpoint again.",
                )
        return []

    def update_missing_keys(
        self, model: UNet2DModel, missing_keys: list[str], prefix: str
    ) -> list[str]:
        """Return nothing: what is missing is found when the tensors are put in."""
        del model, missing_keys, prefix
        return []

    def maybe_update_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Any]:
        """Keep one shard's packed tensors; leave none for diffusers to assign."""
        # Clones: a file that is mapped into memory may be overwritten by a later save.
        self._packed |= {name: tensor.clone() for name, tensor in state_dict.items()}
        return {}

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Tensor], *, safe_serialization: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the packed tensors as they were loaded, for `save_pretrained`.

        Raises:
            CheckpointUnsafe: they would be pickled.
        """
        del state_dict
        if not safe_serialization:
            raise CheckpointUnsafe(
                "A quantized denoiser is saved in safetensors only.",
                hint="Leave safe_serialization=False out.",
            )
        return dict(self._packed), dict(METADATA)

    def _process_model_before_weight_loading(
        self,
        model: UNet2DModel,
        **kwargs: Any,  # noqa: ANN401
    ) -> UNet2DModel:
        del kwargs
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                place = torch.empty_like(parameter, device="cpu")
                setattr(module, name, nn.Parameter(place, requires_grad=False))
        return model

    def _process_model_after_weight_loading(
        self,
        model: UNet2DModel,
        **kwargs: Any,  # noqa: ANN401
    ) -> UNet2DModel:
        del kwargs
        described = self.quantization_config.described
        if digest_of(self._packed, described) != described.sha256:
            raise CheckpointShapeMismatch(
                "The packed weights are not the ones that config.json describes.",
                hint="Download the checkpoint again.",
            )
        self.denoiser = _quantized(model, described, self._packed)
        self._late = LateExecution(self.denoiser, _CHOSEN.get() or described.execution)
        return model

    def _dequantize(self, model: UNet2DModel) -> UNet2DModel:
        del model
        raise ModelUnsupported(
            "The full-precision weights are not in a checkpoint.",
            hint="Load the model that it was made from.",
        )


def _quantized(
    unet: UNet2DModel, described: DenoiserConfig, packed: dict[str, Tensor]
) -> QuantizedDenoiser:
    denoiser = QuantizedDenoiser(
        unet, described.recipe, num_timesteps=described.num_timesteps
    )
    state = {name: tensor.to(unet.device) for name, tensor in packed.items()}
    try:
        load_state(denoiser, state, described.structure)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointShapeMismatch(
            f"The packed weights do not fit config.json: {error}",
            hint="Download the checkpoint again.",
        ) from error
    return denoiser


AUTO_QUANTIZER_MAPPING[Method.TCAQ.value] = TCAQQuantizer
AUTO_QUANTIZATION_CONFIG_MAPPING[Method.TCAQ.value] = TCAQConfig

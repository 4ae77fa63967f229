"""Every way the science can refuse, drawn as one tree; torch-free.

TCAQError                      code                        retryable
├── ModelNotFound              model_not_found             no
├── ModelUnsupported           model_unsupported           no
├── CheckpointUnsafe           checkpoint_unsafe           no
├── CheckpointShapeMismatch    checkpoint_shape_mismatch   no
├── CalibrationFailed          calibration_failed          no
├── ReconstructionDiverged     diverged                    no
├── OutOfMemory                out_of_memory               yes
├── ExportFailed               export_failed               no
├── ExecutionUnavailable       execution_unavailable       no
├── EvaluationFailed           evaluation_failed           no
├── ExtractorUnavailable       extractor_unavailable       no
├── ReferenceUnusable          reference_unusable          no
├── ImagesUnusable             images_unusable             no
├── GuardViolated              guard_violated              no
├── ResumeRefused              resume_refused              yes
└── Interrupted                cancelled                   no

``code`` comes from a closed list that the HTTP interface documents; ``hint`` says
what the caller can do about it.
"""

from typing import ClassVar


class TCAQError(Exception):
    """Base of every refusal of the science."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, hint: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class ModelNotFound(TCAQError):
    """No model under that name, folder or revision."""

    code = "model_not_found"


class ModelUnsupported(TCAQError):
    """The folder is a model, but not one that this version can quantize."""

    code = "model_unsupported"


class CheckpointUnsafe(TCAQError):
    """Loading the weights would mean unpickling what a user sent."""

    code = "checkpoint_unsafe"


class CheckpointShapeMismatch(TCAQError):
    """Weights that are truncated, tampered with, or not the declared shapes."""

    code = "checkpoint_shape_mismatch"


class CalibrationFailed(TCAQError):
    """Calibration gave no usable ranges (NaN, empty, or too few samples)."""

    code = "calibration_failed"


class ReconstructionDiverged(TCAQError):
    """A block's reconstruction loss became NaN or infinite."""

    code = "diverged"


class OutOfMemory(TCAQError):
    """The device had no room for the next step."""

    code = "out_of_memory"
    retryable = True


class ExportFailed(TCAQError):
    """A file cannot be written, or does not reproduce what it was written from."""

    code = "export_failed"


class ExecutionUnavailable(TCAQError):
    """The execution that was asked for is not one that this machine can do."""

    code = "execution_unavailable"


class EvaluationFailed(TCAQError):
    """Images or features that no score can be computed from."""

    code = "evaluation_failed"


class ExtractorUnavailable(TCAQError):
    """The feature network's weights are not here, or not the ones they claim to be."""

    code = "extractor_unavailable"


class ReferenceUnusable(TCAQError):
    """No such reference statistics, or made for something else."""

    code = "reference_unusable"


class ImagesUnusable(TCAQError):
    """A folder or an archive that reference statistics cannot be made of."""

    code = "images_unusable"


class GuardViolated(TCAQError):
    """The quantized model is further from the original than the job allows."""

    code = "guard_violated"


class ResumeRefused(TCAQError):
    """What an earlier attempt left is damaged, or belongs to something else."""

    code = "resume_refused"
    retryable = True


class Interrupted(TCAQError):
    """The caller asked, through the progress callback, to stop."""

    code = "cancelled"

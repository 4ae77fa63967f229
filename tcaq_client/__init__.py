"""A typed client of the quantization service; it speaks HTTP only."""

from tcaq_client.catalog import Model as Model
from tcaq_client.catalog import Preset as Preset
from tcaq_client.catalog import Protocol as Protocol
from tcaq_client.client import Client as Client
from tcaq_client.errors import ChecksumMismatch as ChecksumMismatch
from tcaq_client.errors import ClientError as ClientError
from tcaq_client.errors import ConnectionFailed as ConnectionFailed
from tcaq_client.errors import FieldError as FieldError
from tcaq_client.errors import JobFailed as JobFailed
from tcaq_client.errors import Problem as Problem
from tcaq_client.errors import UnexpectedAnswer as UnexpectedAnswer
from tcaq_client.errors import UnsafeArchive as UnsafeArchive
from tcaq_client.images import Image as Image
from tcaq_client.images import Sample as Sample
from tcaq_client.results import Failure as Failure
from tcaq_client.results import Job as Job
from tcaq_client.results import Progress as Progress
from tcaq_client.results import Step as Step
from tcaq_client.scores import Score as Score
from tcaq_client.scores import SweepPoint as SweepPoint

__all__ = (
    "ChecksumMismatch",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "Failure",
    "FieldError",
    "Image",
    "Job",
    "JobFailed",
    "Model",
    "Preset",
    "Problem",
    "Progress",
    "Protocol",
    "Sample",
    "Score",
    "Step",
    "SweepPoint",
    "UnexpectedAnswer",
    "UnsafeArchive",
)

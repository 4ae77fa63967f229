import inspect

import tcaq_client
from tcaq_client import errors


def test_the_client_exports_exactly_what_it_says() -> None:
    public = {
        name
        for name, value in vars(tcaq_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(tcaq_client.__all__)
    assert list(tcaq_client.__all__) == sorted(tcaq_client.__all__)


def test_every_error_of_the_client_is_exported() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.ClientError)
    }
    assert defined <= set(tcaq_client.__all__)
    assert len(defined) == 7


def test_every_error_is_drawn_in_the_tree() -> None:
    for name in tcaq_client.__all__:
        value = getattr(tcaq_client, name)
        if inspect.isclass(value) and issubclass(value, errors.ClientError):
            assert name in (errors.__doc__ or "")


def test_a_client_has_the_verbs_of_the_interface() -> None:
    public = {name for name in vars(tcaq_client.Client) if not name.startswith("_")}
    assert public == {
        "cancel",
        "close",
        "download",
        "download_onnx",
        "evaluate",
        "image",
        "job",
        "jobs",
        "models",
        "pareto_picture",
        "protocols",
        "recipes",
        "sample",
        "sample_png",
        "submit",
        "sweep",
        "wait",
    }

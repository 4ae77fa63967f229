import json

from tests.client.command import always, run


def test_protocols_say_what_would_make_them_usable() -> None:
    item = {
        "name": "cifar10-50k",
        "description": "CIFAR-10.",
        "usable": False,
        "reason": "No weights.",
        "hint": "Set [bold]THIS[/bold].",
        "protocol": {"num_images": 50_000},
    }
    page = {"object": "list", "data": [item]}
    shown = run(always(200, page), "protocols")
    assert "No weights. Set [bold]THIS[/bold]." in shown.stdout
    assert "50,000" in shown.stdout
    assert json.loads(run(always(200, page), "protocols", "--json").stdout) == [item]

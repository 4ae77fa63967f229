from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tcaq_core.evaluation.paired import per_image_psnr_db, ssim
from tcaq_core.evaluation.paired_scores import measure
from tcaq_core.evaluation.shard import PIXELS, Subject
from tests.tcaq_core.evaluation.plans import make_plan

PLAN = make_plan(metrics=("psnr_db", "ssim"), paired_images=6, extractor=None)


def _images(seed: int, num_images: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, 12, 12, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _subject(folder: Path, images: torch.Tensor) -> Subject:
    folder.mkdir()
    paths = []
    # As the plan's three shards: four images, two, and none that are compared.
    for number, part in enumerate((images[:4], images[4:], images[:0])):
        paths.append(folder / f"{number}.safetensors")
        save_file({PIXELS: part.contiguous()}, paths[-1])
    return Subject(tuple(paths))


def test_images_are_compared_across_shards(tmp_path: Path) -> None:
    a, b = _images(0), _images(1)
    one, other = _subject(tmp_path / "a", a), _subject(tmp_path / "b", b)
    psnr = measure(one, other, PLAN, "psnr_db").value
    assert psnr == pytest.approx(float(per_image_psnr_db(a, b).mean()))
    found = measure(one, other, PLAN, "ssim").value
    assert found == pytest.approx(float(ssim(a, b).mean()))


def test_one_equal_image_does_not_hide_the_others(tmp_path: Path) -> None:
    a, b = _images(0), _images(1)
    b[2] = a[2]
    one, other = _subject(tmp_path / "a", a), _subject(tmp_path / "b", b)
    found = measure(one, other, PLAN, "psnr_db")
    rest = torch.tensor([0, 1, 3, 4, 5])
    expected = per_image_psnr_db(a[rest], b[rest])
    assert found.value == pytest.approx(float(expected.mean()))
    assert found.bounds is not None
    assert "1 of 6 images equal the baseline's" in found.notes[0]


def test_equal_images_have_an_infinite_ratio(tmp_path: Path) -> None:
    images = _images(0)
    one, other = _subject(tmp_path / "a", images), _subject(tmp_path / "b", images)
    assert measure(one, other, PLAN, "psnr_db").value is None
    assert measure(one, other, PLAN, "ssim").value == pytest.approx(1.0)

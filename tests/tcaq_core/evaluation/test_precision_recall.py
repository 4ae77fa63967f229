import pytest
import torch

from tcaq_core.errors import EvaluationFailed, Interrupted
from tcaq_core.evaluation.kernel_distance import TensorRows
from tcaq_core.evaluation.precision_recall import PrecisionRecall, precision_recall


def line(*points: float) -> TensorRows:
    return TensorRows(torch.tensor(points)[:, None])


def cloud(seed: int, n: int = 50, spread: float = 1.0) -> TensorRows:
    generator = torch.Generator().manual_seed(seed)
    return TensorRows(spread * torch.randn(n, 3, generator=generator))


def by_definition(
    generated: TensorRows, reference: TensorRows, neighbours: int
) -> PrecisionRecall:
    """Compute all distances from differences, with no trick at all."""

    def between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a[:, None] - b[None]).square().sum(2).sqrt()

    def share(points: torch.Tensor, manifold: torch.Tensor) -> float:
        own = between(manifold, manifold)
        own.fill_diagonal_(torch.inf)
        radius = own.sort(dim=1).values[:, neighbours - 1]
        return float((between(points, manifold) <= radius).any(1).double().mean())

    fake, real = generated.features.double(), reference.features.double()
    return PrecisionRecall(share(fake, real), share(real, fake))


def test_precision_is_of_the_generated_images_and_recall_of_the_real() -> None:
    # The model draws one of two modes, and draws it well.
    real = line(0.0, 0.1, 0.2, 0.3, 9.0, 9.1, 9.2, 9.3)
    generated = line(0.05, 0.15, 0.25, 0.12)
    found = precision_recall(generated, real, neighbours=2)
    assert found == PrecisionRecall(precision=1.0, recall=0.5)
    assert precision_recall(real, generated, neighbours=2).precision == 0.5


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_it_is_the_definition_in_chunks_of_any_size(
    neighbours: int, chunk: int
) -> None:
    generated, real = cloud(0, 40, spread=1.3), cloud(1, 53)
    expected = by_definition(generated, real, neighbours)
    assert 0 < expected.precision < 1
    assert expected.recall != expected.precision
    found = precision_recall(generated, real, neighbours=neighbours, chunk=chunk)
    assert found == expected


def test_a_point_on_the_edge_is_inside() -> None:
    real = line(0.0, 1.0, 2.0)
    # Radius 1 around each end; -1 is on the edge, -1.001 beyond it.
    found = precision_recall(line(-1.0, -1.001, 3.0, 3.001), real, neighbours=1)
    assert found.precision == 0.5


@pytest.mark.parametrize("chunk", [3, 100])
def test_a_copy_is_inside_a_ball_of_radius_zero(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    places = 30 * torch.rand(20, 64, generator=generator)
    copies = TensorRows(places.repeat(4, 1))
    # Half of them copied, which rounding must not move; half a little beside.
    places[10:] += 1e-3
    found = precision_recall(TensorRows(places), copies, chunk=chunk)
    assert found.precision == 0.5


@pytest.mark.parametrize("chunk", [3, 100])
def test_rounding_does_not_move_a_point_off_the_edge(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Pairs far apart: around each point a ball up to its partner, which is 100 away.
    a = torch.randint(-30_000, 30_000, (20, 64), generator=generator).float()
    b = a.clone()
    b[:, :4] += 50
    # On the other side, as far: on the edge; half of them one further.
    mirrored = 2 * a - b
    mirrored[10:, 0] -= 1
    real = TensorRows(torch.cat([a, b]))
    found = precision_recall(TensorRows(mirrored), real, neighbours=1, chunk=chunk)
    assert found.precision == 0.5


def test_a_point_is_not_its_own_neighbour() -> None:
    real = line(0.0, 5.0)
    # Balls of radius 5, not 0.
    assert precision_recall(line(2.0, -4.0), real, neighbours=1).precision == 1


@pytest.mark.parametrize("offset", [0, 10_000_000])
def test_distances_do_not_depend_on_where_the_features_lie(offset: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Whole numbers, which float32 holds at either place.
    points = [
        torch.randint(-9, 9, (30, 4), generator=generator).float() for _ in range(2)
    ]
    sides = [TensorRows(x + offset) for x in points]
    generated, real = map(TensorRows, points)
    expected = by_definition(generated, real, 3)
    assert precision_recall(*sides, chunk=11) == expected


def test_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationFailed, match="3 images have no 3 nearest"):
        precision_recall(cloud(0, 3), cloud(1))
    with pytest.raises(EvaluationFailed, match="3 features each, the reference 2"):
        precision_recall(cloud(0), TensorRows(torch.zeros(9, 2)))
    broken = cloud(0)
    broken.features[20, 1] = torch.nan
    with pytest.raises(EvaluationFailed, match="NaN"):
        precision_recall(broken, cloud(1))


def test_a_caller_can_end_it_between_chunks() -> None:
    ticks: list[None] = []

    def tick() -> None:
        ticks.append(None)
        if len(ticks) == 3:
            raise Interrupted("asked to stop", hint="none")

    with pytest.raises(Interrupted):
        precision_recall(cloud(0), cloud(1), chunk=9, tick=tick)
    assert len(ticks) == 3

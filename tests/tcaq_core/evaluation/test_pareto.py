from tcaq_core.evaluation.pareto import Point, on_front


def _point(size: int, ms: float | None, score: float | None) -> Point:
    return Point(bytes=size, ms_per_image=ms, score=score)


def test_what_another_beats_in_everything_is_not_on_the_front() -> None:
    points = [_point(10, 5.0, 1.0), _point(20, 6.0, 2.0), _point(5, 9.0, 3.0)]
    assert on_front(points, metric="fd") == (True, False, True)


def test_a_higher_psnr_is_better_and_a_higher_distance_is_worse() -> None:
    points = [_point(10, 5.0, 40.0), _point(10, 5.0, 30.0)]
    assert on_front(points, metric="psnr_db") == (True, False)
    assert on_front(points, metric="fd") == (False, True)


def test_equal_points_are_both_on_the_front() -> None:
    twins = [_point(10, 5.0, 1.0), _point(10, 5.0, 1.0)]
    assert on_front(twins, metric="fd") == (True, True)


def test_what_was_not_timed_beats_nobody_in_time() -> None:
    points = [_point(10, None, 1.0), _point(10, 5.0, 1.0), _point(9, None, 1.0)]
    assert on_front(points, metric="fd") == (False, True, True)


def test_images_equal_to_the_models_are_the_best() -> None:
    points = [_point(10, 5.0, None), _point(10, 5.0, 90.0)]
    assert on_front(points, metric="psnr_db") == (True, False)

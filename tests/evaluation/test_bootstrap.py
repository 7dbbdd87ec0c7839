import math
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.cases import FAR, NONE, A, random_videos, video
from ultravid.evaluation import all_metrics, match_video
from ultravid.evaluation.bootstrap import (
    BOOTSTRAP_METRICS,
    bootstrap_metrics,
    draw_patients,
    paired_p_value,
    patient_notes,
    percentile_interval,
)
from ultravid.evaluation.matching import match_videos
from ultravid.evaluation.metrics import count_metrics


def with_patients(videos, patients):
    return [match_video(replace(v, patient=p)) for v, p in zip(videos, patients, strict=True)]


def copies(videos, drawn):
    """The videos of a draw, those of a patient drawn twice under another name."""
    patients = sorted({v.patient for v in videos})
    return [
        replace(v, video_id=f"{v.video_id} {copy}") for v in videos for copy in range(drawn[patients.index(v.patient)])
    ]


@pytest.mark.parametrize("seed", range(4))
def test_each_draw_equals_the_metrics_of_the_drawn_videos(seed):
    rng = np.random.default_rng(seed)
    # Eight boxes in ten are found: some draws reach recall 0.8, others don't. All scores differ: copies are the only ties.
    videos = with_patients(random_videos(rng, num_videos=6, max_frames=8, step=None), ["p", "q", "q", "r", "s", "t"])
    values = bootstrap_metrics(videos, num_draws=25, seed=seed)
    for i, drawn in enumerate(draw_patients(5, 25, seed)):
        metrics = all_metrics(copies(videos, drawn))
        for name in BOOTSTRAP_METRICS:
            assert values[name][i] == pytest.approx(metrics[name], nan_ok=True), (name, i)


def test_a_recall_that_ends_at_the_level_exactly_counts_as_reached():
    frames = [*[([A], [A], [0.5])] * 4, ([A], [FAR], [0.9])]
    videos = [match_video(video(*frames, name=name)) for name in "ab"]  # two alike: each draw equals the whole
    drawn, whole = bootstrap_metrics(videos, num_draws=3), all_metrics(videos)
    for name in ("Pr80", "FP80", "Pr70", "FP70"):
        assert drawn[name] == pytest.approx([whole[name]] * 3)


def test_one_patient_gives_no_interval_and_a_run_equals_itself():
    videos = with_patients(random_videos(np.random.default_rng(1)), ["p", " P", "p"])
    draws = bootstrap_metrics(videos, 50)
    for name in BOOTSTRAP_METRICS:
        assert math.isnan(percentile_interval(draws[name]).low) and math.isnan(paired_p_value(draws[name]))
    assert patient_notes(videos)[0].startswith("There is one patient, so there are no intervals and no p-values")
    videos = with_patients(random_videos(np.random.default_rng(1)), ["p", "q", "q"])
    draws, again = bootstrap_metrics(videos, 50), bootstrap_metrics(videos, 50)
    assert all(np.array_equal(draws[name], again[name], equal_nan=True) for name in BOOTSTRAP_METRICS)
    assert paired_p_value(again["AP50"] - draws["AP50"]) == 1


def test_notes_say_how_few_and_how_unknown_the_patients_are():
    """A video of an unknown patient is not of the patient who is called like it."""
    one = [video(([A], [A], [0.5]), name=f"v{i}", patient=f"p{i}") for i in range(12)]
    assert patient_notes(match_videos(one)) == []
    few = [*one[:9], *(video(([], [A], [0.5]), name=f"n{i}", patient=f"n{i}") for i in range(3))]
    assert "Only 9 of the 12 patients have lesions" in patient_notes(match_videos(few))[0]
    unknown = match_videos([*one[:3], replace(one[3], patient=None), replace(one[4], patient="v3")])
    assert patient_notes(unknown)[0].startswith("There are only 5 patients: with fewer than 10")
    assert "The patient of 1 video (of 5) is not known" in patient_notes(unknown)[1]
    assert (
        count_metrics(unknown)["count/patients"] == 5 and count_metrics(unknown)["count/videos_of_unknown_patient"] == 1
    )


def test_the_interval_of_a_share_is_that_of_the_binomial():
    # 100 patients with a lesion each, 70 found: the share's standard deviation is sqrt(0.7 * 0.3 / 100).
    frames = [([A], [A], [0.9])] * 70 + [([A], NONE, [])] * 30
    videos = [match_video(video(f, name=f"v{i}", patient=f"p{i}")) for i, f in enumerate(frames)]
    recall = bootstrap_metrics(videos, 4000)["R@16"]
    assert recall.mean() == pytest.approx(70, abs=0.3)
    assert recall.std() == pytest.approx(100 * np.sqrt(0.7 * 0.3 / 100), rel=0.05)
    interval = percentile_interval(recall)
    assert (interval.low, interval.high) == pytest.approx((61, 79), abs=1)
    # Ten videos of ten patients each: only the number of patients counts.
    grouped = [replace(v, patient=f"p{i % 10}") for i, v in enumerate(videos)]
    assert bootstrap_metrics(grouped, 500)["R@16"].std() < 1e-9  # every patient has 7 of 10


def test_draws_do_not_depend_on_how_many_there_are_and_undefined_ones_give_no_interval():
    assert np.array_equal(draw_patients(7, 10, 3), draw_patients(7, 1000, 3)[:10])
    values = np.arange(100.0)
    values[:4] = np.nan
    assert percentile_interval(values).low > 4 and percentile_interval(values).defined == 0.96
    values[:10] = np.nan
    assert np.isnan(percentile_interval(values).low) and np.isnan(paired_p_value(values))
    assert paired_p_value(np.arange(-5.0, 95.0)) == pytest.approx(2 * (6 + 1) / 101)

"""The train stage and its watch: one job a round, and no belief in what the engine cannot have said."""

import pytest

from agents import train
from schemas.training import TrainingConfig, TrainingStarted
from streams.clients.ml_engine import JobStatus
from streams.stage import GiveUp, TryAgain
from tests.fakes import a_step, in_hand
from tests.unit.stages import MODEL_PATH, RUN, a_house, validated


@pytest.fixture
def use():
    return a_house()


@pytest.fixture
async def started(use) -> TrainingStarted:
    with in_hand(a_step("train", run_id=RUN)):
        return await train(validated(training_config=TrainingConfig(epochs=7)), use)


async def watch(started, use):
    return await train.watcher.ask(started, use)


async def test_the_engine_is_told_where_data_lies_and_where_the_model_goes(use, started):
    [asked] = use.ml_engine.asked
    assert asked["output_path"] == f"models/acme/{RUN}/1/"
    assert (asked["tenant_id"], asked["path"], asked["config"].epochs) == ("acme", "training-data/acme/latest/", 7)
    assert started.run_id == RUN
    assert started.job_id in use.ml_engine.jobs


async def test_a_second_try_of_a_round_gets_the_same_job_and_the_next_round_another(use, started):
    with in_hand(a_step("train", run_id=RUN, attempt=2, fence=8)):
        assert (await train(validated(), use)).job_id == started.job_id
    with in_hand(a_step("train", run_id=RUN, round=2)):
        assert (await train(validated(), use)).job_id != started.job_id


@pytest.mark.parametrize("status", ["pending", "queued", "running"])
async def test_an_unfinished_job_is_waited_for(use, started, status):
    use.ml_engine.finish(started.job_id, status)
    assert await watch(started, use) is None


async def test_a_job_that_goes_back_to_pending_is_waited_for(use, started):
    for status in ("running", "pending", "running"):
        use.ml_engine.finish(started.job_id, status)
        assert await watch(started, use) is None


@pytest.mark.parametrize(
    ("told", "status"),
    [("completed", "completed"), ("succeeded", "completed"), ("failed", "failed"), ("cancelled", "cancelled"), ("canceled", "cancelled")],
)
async def test_an_ended_job_completes_the_training_as_the_callback_would(use, started, told, status):
    use.ml_engine.finish(started.job_id, told, model_path=MODEL_PATH, metrics={"loss": 0.5}, error="x" * 5000)
    found = await watch(started, use)
    assert (found.status, found.job_id, found.run_id, found.model_path, found.metrics) == (status, started.job_id, RUN, MODEL_PATH, {"loss": 0.5})
    assert len(found.error) == 2000


async def test_a_forgotten_job_is_named(use, started):
    use.ml_engine.jobs.clear()
    with pytest.raises(GiveUp, match="tidemill retry") as said:
        await watch(started, use)
    assert said.value.code == "job_forgotten"


@pytest.mark.parametrize("status", ["paused", "COMPLETED", ""])
async def test_an_unknown_status_is_named_and_asked_again(use, started, status):
    use.ml_engine.finish(started.job_id, status)
    with pytest.raises(TryAgain) as said:
        await watch(started, use)
    assert said.value.code == "unknown_job_status"


@pytest.mark.parametrize("lie", [{"job_id": "job-of-someone"}, {"tenant_id": "other"}])
async def test_an_answer_about_another_job_or_tenant_is_not_believed(use, started, lie):
    use.ml_engine.finish(started.job_id, **lie)
    with pytest.raises(TryAgain) as said:
        await watch(started, use)
    assert said.value.code == "ml_engine_lied"


@pytest.mark.parametrize(
    "said", [{}, {"model_path": None, "metrics": None, "error": None}, {"result": None, "metrics": {}}, {"job_id": None, "tenant_id": "acme"}]
)
async def test_an_engine_that_says_no_more_than_it_must_is_understood(use, started, said):
    use.ml_engine.jobs[started.job_id] = JobStatus.model_validate({"status": "running"} | said)
    assert await watch(started, use) is None
    use.ml_engine.jobs[started.job_id] = JobStatus.model_validate({"status": "completed"} | said)
    found = await watch(started, use)
    assert (found.status, found.job_id, found.metrics) == ("completed", started.job_id, {})


async def test_a_job_nobody_wants_any_more_is_cancelled(use, started):
    await train.watcher.cancel(started, use)
    assert use.ml_engine.cancelled == [started.job_id]


async def test_training_holds_a_place_of_the_engine():
    assert train.limit == "ml_engine"

"""The deploy stage: compare-and-set, health, and the last good version put back when the new one is sick."""

import json
from uuid import uuid4

import pytest

from agents import deploy
from schemas.states import RunState
from streams.clients.inference import Conflict
from streams.stage import GiveUp, TryAgain
from tests.fakes import a_step, in_hand
from tests.unit.stages import INDEX_PATH, INDICES, MODEL_PATH, RUN, SHA, a_house, index_built

pytestmark = pytest.mark.looptime


@pytest.fixture
def use():
    return a_house()


@pytest.fixture(autouse=True)
def step():
    with in_hand(a_step("deploy", run_id=RUN)) as step:
        yield step


async def make_live(use) -> int:
    """A version of an earlier run that serves."""
    version = await use.versions.reserve("acme", uuid4(), 1, model_path="models/acme/old", index_path="indices/acme/old")
    await use.versions.mark_live("acme", version.number)
    use.inference.live["acme"] = version.number
    return version.number


async def refused(use, **changes) -> GiveUp:
    with pytest.raises(GiveUp) as said:
        await deploy(index_built(**changes), use)
    return said.value


async def live(use) -> int | None:
    version = await use.versions.live("acme")
    return version.number if version else None


async def test_the_first_version_goes_live(use):
    found = await deploy(index_built(), use)
    assert (found.version, found.previous_version, found.health) == (1, None, "healthy")
    assert await live(use) == use.inference.live["acme"] == 1


async def test_the_next_version_replaces_the_last_one(use):
    before = await make_live(use)
    found = await deploy(index_built(), use)
    assert (found.version, found.previous_version) == (before + 1, before)
    assert await live(use) == before + 1


async def test_deploying_again_after_a_crash_goes_on_with_the_same_number(use):
    await deploy(index_built(), use)
    again = await deploy(index_built(), use)
    assert again.version == 1
    assert len(use.inference.deployed) == 1


async def test_a_version_that_becomes_healthy_late_is_waited_for(use, monkeypatch):
    health = use.inference.health
    answers = iter(["down", "sick", "sick"])

    async def slowly(tenant_id, version):
        match next(answers, "well"):
            case "down":
                raise TryAgain("inference cannot be reached", code="inference_down", free=True)
            case "sick":
                use.inference.sick = {version}
            case _:
                use.inference.sick = set()
        return await health(tenant_id, version)

    monkeypatch.setattr(use.inference, "health", slowly)
    assert (await deploy(index_built(), use)).version == 1


async def test_a_sick_version_is_replaced_by_the_last_good_one_under_a_new_number(use):
    before = await make_live(use)
    use.inference.sick = {before + 1}
    said = await refused(use)
    assert said.code == "unhealthy"
    assert "put back as version 3" in said.sentence
    assert use.inference.live["acme"] == await live(use) == 3
    assert use.inference.deployed[-1] == ("acme", 3, "rollback:acme:3")
    back = use.versions.rows["acme", 3]
    assert (back.index_path, use.versions.rows["acme", 2].state) == ("indices/acme/old", "rejected")


async def test_a_rollback_that_crashed_goes_on_without_trying_the_sick_version_again(use):
    before = await make_live(use)
    use.inference.sick = {before + 1}
    await refused(use)
    use.inference.sick = set()  # it would pass now
    said = await refused(use)
    assert said.code == "unhealthy"
    assert use.inference.live["acme"] == await live(use) == 3
    assert [number for _, number, _ in use.inference.deployed] == [2, 3]


async def test_a_sick_first_version_leaves_nothing_served_and_says_so(use):
    use.inference.sick = {1}
    said = await refused(use)
    assert said.code == "unhealthy"
    assert "no earlier one" in said.sentence
    assert await live(use) is None


async def test_a_rollback_that_is_sick_too_is_the_loudest_error(use):
    before = await make_live(use)
    use.inference.sick = {before + 1, before + 2}
    assert (await refused(use)).code == "rollback_failed"


async def test_a_service_that_goes_down_is_no_verdict_on_the_version(use, monkeypatch):
    async def down(*_):
        raise TryAgain("inference cannot be reached", code="inference_down", free=True, waiting_for="inference")

    monkeypatch.setattr(use.inference, "health", down)
    with pytest.raises(TryAgain) as said:
        await deploy(index_built(), use)
    assert said.value.free
    assert use.versions.rows["acme", 1].state == "reserved"


@pytest.mark.parametrize("outage", [False, True])
async def test_a_version_whose_own_probe_fails_is_rolled_back_though_the_service_went_away_later(use, monkeypatch, outage):
    before = await make_live(use)
    health, asked = use.inference.health, []

    async def breaks(tenant_id, version):
        if version != before + 1:
            return await health(tenant_id, version)
        asked.append(version)
        if outage and len(asked) > 3:
            raise TryAgain("inference cannot be reached", code="inference_down", free=True, waiting_for="inference")
        raise TryAgain("inference answered GET /health with 500", code="inference_error")

    monkeypatch.setattr(use.inference, "health", breaks)
    said = await refused(use)
    assert said.code == "unhealthy"
    assert "with 500" in said.sentence
    assert await live(use) == use.inference.live["acme"] == before + 2


async def test_an_older_version_gives_way_to_a_newer_one(use):
    await use.versions.reserve("acme", RUN, 1, model_path=MODEL_PATH, index_path=INDEX_PATH)
    newer = await make_live(use)
    said = await refused(use)
    assert (said.code, said.outcome) == ("newer_version_live", RunState.SUPERSEDED)
    assert await live(use) == use.inference.live["acme"] == newer


async def test_a_run_that_died_while_it_gave_way_to_a_newer_version_gives_way_again(use):
    await make_live(use)
    mine = await use.versions.reserve("acme", RUN, 1, model_path=MODEL_PATH, index_path=INDEX_PATH)
    newer = await make_live(use)
    await use.versions.reject("acme", mine.number, "as before the crash")
    said = await refused(use)
    assert (said.code, said.outcome) == ("newer_version_live", RunState.SUPERSEDED)
    assert (use.inference.deployed, len(use.versions.rows), await live(use)) == ([], 3, newer)


async def test_a_newer_version_that_only_the_service_knows_wins_too(use):
    use.inference.live["acme"] = 9
    assert (await refused(use)).outcome is RunState.SUPERSEDED
    assert use.inference.live["acme"] == 9


async def test_a_service_that_lost_its_state_is_told_again_under_another_key(use, step):
    before = await make_live(use)
    use.inference.live.clear()
    assert (await deploy(index_built(), use)).version == before + 1
    assert use.inference.deployed == [("acme", before + 1, f"{step.key}:on-0")]


async def test_a_number_that_an_older_ledger_gave_to_other_files_is_not_taken_for_ours(use):
    use.inference.live["acme"], use.inference.files["acme", 1] = 1, ("models/acme/lost", "indices/acme/lost")
    said = await refused(use)
    assert (said.code, use.inference.deployed) == ("version_taken", [])
    assert "tidemill retry" in said.sentence
    assert use.versions.rows["acme", 1].state == "rejected"


async def test_a_service_that_only_says_that_our_number_is_live_is_not_believed_either(use, monkeypatch):
    async def conflicts(**_):
        return Conflict(1)

    monkeypatch.setattr(use.inference, "deploy", conflicts)
    assert (await refused(use)).code == "version_taken"
    assert use.versions.rows["acme", 1].state == "rejected"


async def test_our_own_deploy_whose_answer_was_lost_is_found_again_though_the_service_forgot_the_key(use, step, monkeypatch):
    use.inference.live["acme"], use.inference.files["acme", 1] = 1, (MODEL_PATH, INDEX_PATH)
    plain, keys = use.inference.deploy, []

    async def strictly(**asked):
        keys.append(asked["key"])
        return await plain(**asked) if asked["expected_version"] == 1 else Conflict(1)

    monkeypatch.setattr(use.inference, "deploy", strictly)
    assert (await deploy(index_built(), use)).version == 1
    assert keys == [step.key, f"{step.key}:on-1"]


async def test_a_key_that_was_used_with_another_body_leads_to_a_new_one(use, step, monkeypatch):
    plain = use.inference.deploy

    async def remembers(**asked):
        return Conflict(None) if asked["key"] == step.key else await plain(**asked)

    monkeypatch.setattr(use.inference, "deploy", remembers)
    assert (await deploy(index_built(), use)).version == 1


async def test_an_index_that_the_service_refuses_is_rejected_and_the_old_one_stays(use, monkeypatch):
    before = await make_live(use)

    async def corrupt(**_):
        raise GiveUp("inference refused with 422 (checksum_mismatch)", code="inference_refused")

    monkeypatch.setattr(use.inference, "deploy", corrupt)
    assert (await refused(use)).code == "inference_refused"
    assert use.versions.rows["acme", before + 1].state == "rejected"
    assert await live(use) == before


async def test_endless_conflicts_end_in_another_attempt(use, monkeypatch):
    async def never(**_):
        return Conflict(None)

    monkeypatch.setattr(use.inference, "deploy", never)
    with pytest.raises(TryAgain) as said:
        await deploy(index_built(), use)
    assert said.value.code == "version_conflict"


@pytest.mark.parametrize("changes", [{"index_path": "indices/other/x"}, {"model_path": "models/other/x"}, {"index_path": "indices/acme/../x"}])
async def test_foreign_paths_are_not_deployed(use, changes):
    assert (await refused(use, **changes)).code == "foreign_path"
    assert use.inference.deployed == []


async def test_an_index_of_no_known_model_is_not_deployed(use):
    assert (await refused(use, model_path=None)).code == "no_model_path"


class TestBuiltByTheEngine:
    def announce(self, use, **facts) -> None:
        known = {"tenant_id": "acme", "run_id": str(RUN), "dim": 4, "vectors": 10, "kind": "IVF", "nlist": 2, "nprobe": 1, "recall": 0.9}
        manifest = known | {"model_path": MODEL_PATH, "sha256": {"index.faiss": SHA}} | facts
        use.objects.files[INDICES, f"{INDEX_PATH}/manifest.json"] = json.dumps(manifest).encode()

    async def test_it_goes_live_when_its_manifest_agrees(self, use):
        self.announce(use)
        assert (await deploy(index_built(job_id="job-1"), use)).version == 1

    @pytest.mark.parametrize(
        ("facts", "code"),
        [
            ({"tenant_id": "other"}, "foreign_manifest"),
            ({"run_id": str(uuid4())}, "foreign_manifest"),
            ({"sha256": {"index.faiss": "b" * 64}}, "checksum_mismatch"),
            ({"vectors": 11}, "checksum_mismatch"),
            ({"dim": -1}, "bad_manifest"),
        ],
    )
    async def test_a_manifest_that_disagrees_keeps_it_from_going_live(self, use, facts, code):
        self.announce(use, **facts)
        assert (await refused(use, job_id="job-1")).code == code
        assert use.inference.deployed == []

    async def test_a_low_recall_keeps_it_from_going_live(self, use):
        self.announce(use)
        assert (await refused(use, job_id="job-1", recall=0.5)).code == "recall_too_low"


async def test_a_cancelled_run_deploys_nothing_that_was_not_live_already(use, step):
    before = await make_live(use)
    step.cancelling = True
    said = await refused(use)
    assert (said.code, await live(use), use.inference.live["acme"]) == ("cancelled", before, before)


async def test_a_cancelled_run_puts_the_last_good_version_back_when_its_own_is_live_and_sick(use, step):
    before = await make_live(use)
    mine = await use.versions.reserve("acme", RUN, 1, model_path=MODEL_PATH, index_path=INDEX_PATH)
    use.inference.live["acme"] = mine.number
    use.inference.sick.add(mine.number)
    step.cancelling = True
    said = await refused(use)
    assert (said.code, await live(use)) == ("unhealthy", mine.number + 1)
    assert before < mine.number < use.inference.live["acme"]

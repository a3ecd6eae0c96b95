"""What somebody who writes a pipeline types: `@stage`, `Pipeline`, and the two words for failure.

A stage is a plain async function, an event in and the next event out; its signature is its wiring:

    @stage(retry=Retry(attempts=3, every=minutes(5)))
    async def validate(event: TrainingRequested, use: Services) -> TrainingValidated: ...

A stage that starts something remote returns a `JobStarted` event; the run then waits for the completion that names the same
job, however it arrives: on Kafka, or found by the stage's `watch` function, which is asked again and again until then.
"""

import inspect
import types
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from schemas.event import Event, JobStarted
from schemas.states import RunState
from streams.settings import Settings


class TryAgain(Exception):
    """It did not work now and may work later. `after`: not before that; `free`: it costs none of the attempts (an outage of `waiting_for`)."""

    def __init__(
        self, sentence: str, *, code: str = "try_again", after: timedelta | None = None, free: bool = False, waiting_for: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.sentence, self.code, self.after, self.free, self.waiting_for = sentence, code, after, free, waiting_for


class GiveUp(Exception):
    """It will never work: the run ends with this code (or the stage is skipped, when it is not critical).

    From a watch it means that the job is lost: another round starts another job, unless `again` is False.
    """

    def __init__(self, sentence: str, *, code: str, outcome: RunState = RunState.FAILED, again: bool = True) -> None:
        super().__init__(sentence)
        self.sentence, self.code, self.outcome, self.again = sentence, code, outcome, again


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon a stage is tried again."""

    attempts: int = 4
    every: timedelta = timedelta(minutes=5)
    factor: float = 1.0
    """Each further wait is this many times longer."""
    longest: timedelta = timedelta(hours=1)
    within: timedelta = timedelta(days=3)
    """The whole budget: no try begins later than this after the first, not even when an outage of a neighbour made the others free."""

    def wait(self, attempt: int) -> timedelta:
        """The wait after the given attempt (1 for the first), without jitter."""
        return min(self.every * self.factor ** (attempt - 1), self.longest)


Body = Callable[..., Awaitable[Any]]
FromSettings = Callable[[Settings], timedelta]
WhenCancelled = Literal["stop", "ask", "settle"]


@dataclass(frozen=True, slots=True)
class Watch:
    """How a waiting stage asks after its job, in case nobody calls back."""

    ask: Body
    """`(started, use) -> completed | None`; None: not finished yet."""
    takes: type[Event]
    gives: type[Event]
    every: FromSettings
    deadline: FromSettings
    engine: str
    """Whose job ids these are: (engine, job id) is unique."""
    cancel: Body | None = None
    """`(started, use) -> None`: asked when the run times out or is cancelled."""


class Stage:
    """One step of a pipeline: what it takes, what it gives, how it is retried. Calling it calls the function, so tests call it plainly."""

    def __init__(
        self,
        body: Body,
        *,
        retry: Retry | None,
        critical: bool,
        limit: str | None,
        batch: int | None,
        at_once: int,
        cpu: bool,
        timeout: timedelta,
        when_cancelled: WhenCancelled,
    ) -> None:
        self.body, self.retry, self.critical, self.limit, self.when_cancelled = body, retry, critical, limit, when_cancelled
        self.batch, self.at_once, self.cpu, self.timeout = batch, at_once, cpu, timeout
        self.name: str = getattr(body, "__name__")  # noqa: B009  # a Callable has no __name__ for the type checker
        self.doc = inspect.getdoc(body) or ""
        first, returns = _signature(body)
        self.takes: type[Event] = get_args(first)[0] if batch else first
        self.gives: tuple[type[Event], ...] = _events(returns)
        self.watcher: Watch | None = None

    async def __call__(self, event: Any, use: Any) -> Any:
        return await self.body(event, use)

    def watch(self, *, engine: str, every: FromSettings, deadline: FromSettings, cancel: Body | None = None) -> Callable[[Body], Body]:
        """Declare the function that asks after this stage's job; its parameter and return type say which job and which completion."""

        def declare(body: Body) -> Body:
            takes, returns = _signature(body)
            self.watcher = Watch(body, takes, _events(returns)[0], every, deadline, engine, cancel)
            return body

        return declare

    @property
    def outputs(self) -> tuple[type[Event], ...]:
        """The events with which the next stage can begin."""
        ends = tuple(kind for kind in self.gives if not issubclass(kind, JobStarted))
        return ends or ((self.watcher.gives,) if self.watcher else ())


def stage(
    *,
    retry: Retry | None = None,
    critical: bool = True,
    limit: str | None = None,
    batch: int | None = None,
    at_once: int = 2,
    cpu: bool = False,
    timeout: timedelta = timedelta(minutes=10),
    when_cancelled: WhenCancelled = "stop",
) -> Callable[[Body], Stage]:
    """Declare a stage.

    retry: None takes the setting `retry`. critical: a stage that is not may fail and the run still succeeds, with a warning.
    limit: name of a limit (setting) that bounds how many steps hold it at a time, waiting included. batch: the function takes a
    list of up to so many events and returns a list of as many outcomes; a worker claims for `at_once` such calls at a time.
    cpu: needs a child process; claimed only when one is free. when_cancelled: what a step that was begun still does when its run is
    cancelled: nothing (stop); one try more, so that a job that it may have started is known and can be cancelled (ask); or as many as
    its policy allows, told by `Step.cancelling`, since half of it is worse than either end (settle).
    """
    return lambda body: Stage(
        body,
        retry=retry,
        critical=critical,
        limit=limit,
        batch=batch,
        at_once=at_once,
        cpu=cpu,
        timeout=timeout,
        when_cancelled=when_cancelled,
    )


class Pipeline:
    """Stages in the order an event travels them; refuses to be made when one does not fit the next."""

    def __init__(self, name: str, stages: Sequence[Stage], *, version: str) -> None:
        self.name, self.version, self.stages = name, version, tuple(stages)
        self.by_name = {each.name: each for each in self.stages}
        self.entry = self.stages[0].takes
        self.gathers = self.stages[0].batch is not None
        """Whether runs begin many at a time: then a single one is in no hurry."""
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if not before.critical:
                raise TypeError(
                    f"pipeline {name}: {before.name} is not critical, so what follows it could not count on its event; only the last stage may be so"
                )
            if after.takes not in before.outputs:
                raise TypeError(f"pipeline {name}: {after.name} takes {after.takes.__name__}, which {before.name} never gives")

    def after(self, name: str) -> Stage | None:
        """The stage behind the named one, or None at the end."""
        index = self.stages.index(self.by_name[name]) + 1
        return self.stages[index] if index < len(self.stages) else None

    def topology(self) -> list[tuple[str, str, str]]:
        """(stage, topic it reads, topics it writes), watchers included: what README and pages draw."""
        rows = []
        for each in self.stages:
            rows.append((each.name, each.takes.topic, " | ".join(kind.topic for kind in each.gives)))
            if each.watcher:
                rows.append((f"{each.name} (watch)", each.watcher.takes.topic, each.watcher.gives.topic))
        return rows


def _signature(body: Body) -> tuple[Any, Any]:
    hints = get_type_hints(body)
    parameters = list(inspect.signature(body).parameters)
    if len(parameters) != 2 or parameters[0] not in hints or "return" not in hints:
        raise TypeError(f"{body.__qualname__}: a stage is `async def name(event: SomeEvent, use: Services) -> NextEvent`")
    return hints[parameters[0]], hints["return"]


def _events(returns: Any) -> tuple[type[Event], ...]:
    if get_origin(returns) is list:
        returns = get_args(returns)[0]
    options = get_args(returns) if get_origin(returns) in (Union, types.UnionType) else (returns,)
    return tuple(kind for kind in options if isinstance(kind, type) and issubclass(kind, Event))

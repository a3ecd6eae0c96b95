"""How bad a seed is: the probability of each fault, most of them drawn anew for each seed, some of them nought."""

from dataclasses import dataclass, fields

from tests.simulation.choices import Choices


@dataclass(slots=True)
class Weather:
    """Probabilities per occasion; seconds where it says so."""

    crash: float = 0.04
    cut: float = 0.02
    """A connection to the ledger breaks around a statement."""
    send_fails: float = 0.1
    ack_lost: float = 0.1
    send_twice: float = 0.1
    skip: float = 0.1
    redeliver: float = 0.1
    outage: float = 0.05
    """A neighbour cannot be reached."""
    fails: float = 0.1
    refuses: float = 0.01
    hangs: float = 0.03
    breaks_off: float = 0.1
    """The deed is done, its answer is lost."""
    crashes_client: float = 0.03
    slow: float = 0.1
    job_fails: float = 0.15
    job_never_ends: float = 0.03
    mute: float = 0.15
    early: float = 0.3
    late: float = 0.3
    twice: float = 0.3
    no_callback: float = 0.3
    foreign: float = 0.15
    """Somebody else's tenant completes the job."""
    # each second
    kill: float = 0.05
    freeze: float = 0.03
    stop: float = 0.02
    rebalance: float = 0.05
    database_outage: float = 0.02
    broker_outage: float = 0.02
    leap: float = 0.1
    """The due logic's clock leaps to the next due step though not all is quiet."""
    lag: float = 0.2
    """Seconds that a record may take to be read."""

    @classmethod
    def draw(cls, choices: Choices) -> "Weather":
        """A third of the faults are off; the rest between a tenth and twice as bad as usual."""
        weather = cls()
        for each in fields(cls):
            scale = 0.0 if choices.number(0, 2) == 0 else choices.between(0.1, 2)
            setattr(weather, each.name, min(getattr(weather, each.name) * scale, 0.9))
        return weather

    @classmethod
    def fair(cls) -> "Weather":
        """No fault at all."""
        return cls(**{each.name: 0.0 for each in fields(cls)})

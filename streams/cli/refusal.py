"""How a command ends that cannot do what it was asked: one sentence with its code, and an exit status."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.ledger.ledger import Answer

DONE, FAILED, USAGE, NOT_THERE = 0, 1, 2, 3


class CliError(Exception):
    """Ends the command: `code: sentence` on stderr, and this exit status."""

    def __init__(self, code: str, sentence: str, status: int = FAILED) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code, self.sentence, self.status = code, sentence, status


WRONG_REQUEST = frozenset(
    {
        "bad_tenant",
        "bad_field",
        "bad_limit",
        "bad_json",
        "bad_text",
        "bad_number",
        "too_deep",
        "too_large",
        "too_many_items",
        "unknown_pipeline",
        "no_tenant",
        "nothing_named",
        "bad_where",
        "bad_schedule",
        "schedule_incomplete",
        "unknown_stage",
        "unstorable",
    }
)
"""Refusals of what was typed, not of the moment it was typed in."""


def accepted(answer: "Answer") -> "Answer":
    """The answer, unless it is a refusal: that ends the command."""
    if answer["result"] == "refused":
        raise CliError(answer["code"], answer["sentence"], USAGE if answer["code"] in WRONG_REQUEST else FAILED)
    return answer

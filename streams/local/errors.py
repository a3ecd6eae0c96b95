"""What the local stack says when it cannot start or has to stop: one sentence for whoever typed the command."""


class LocalError(Exception):
    """The stack cannot go on; the text says what happened and what to do."""

    exit_code = 1


class Missing(LocalError):
    """Something that must be installed is not there."""

    exit_code = 3


class ServerDied(LocalError):
    """A server of the stack ended by itself."""


def first_cause(error: BaseException) -> BaseException:
    """Servers start in a task group; the first failure in it is what the reader wants to know."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

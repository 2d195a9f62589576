"""The exceptions that a command ends with in one line, without a traceback."""


class UserError(Exception):
    """A problem that the user can mend: printed as one line, without a traceback, exit code 2.

    Raise it with a single line that says what came, what is allowed, and what to do about it.
    Anything else that escapes is a defect of this library and keeps its traceback.
    """


class Stopped(Exception):
    """The work was asked to stop and has saved what it had: one line, and an exit code.

    Args:
        message: what was done and how to go on, in one line.
        exit_code: 128 and the number of the signal that asked for it, as shells count.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code

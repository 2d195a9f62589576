"""The one exception that stands for 'the user can mend this'."""


class UserError(Exception):
    """A problem that the user can mend: printed as one line, without a traceback, exit code 2.

    Raise it with a single line that says what came, what is allowed, and what to do about it.
    Anything else that escapes is a defect of this library and keeps its traceback.
    """

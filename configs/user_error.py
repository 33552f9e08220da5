"""The error of whatever the user can mend."""


class UserError(ValueError):
    """A mistake in a setting, a file or a folder. Its message says what was expected, what was found and what to do.

    The command line prints the message alone; any other error shows its traceback.

    Attributes:
      exit_code: of the process.
    """

    exit_code = 2

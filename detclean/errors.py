"""What can go wrong for a user. Each message is one line: where, what, and what to do.

DetcleanError
├── ConfigError      the configuration or the command line
├── DatasetError     the data set: a file, a record, a picture
└── StageError       a stage that could not finish: weights that cannot be had, a training that failed
"""


class DetcleanError(Exception):
    """Base of all errors that are the input's and not a bug; the command line turns it into one line and exit status 2."""


class ConfigError(DetcleanError):
    """The configuration names something unknown, of a wrong type, or impossible together."""


class DatasetError(DetcleanError):
    """The data set cannot be used as it is."""


class StageError(DetcleanError):
    """A stage of a run could not finish."""

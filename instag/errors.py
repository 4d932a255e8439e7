"""The errors a user may meet: one line each, naming culprit and remedy. The CLI prints them and exits with 2."""


class InstagError(Exception):
    """Something outside the program is wrong (a file, a flag, a missing part); the message says what and what to do."""


class ConfigError(InstagError):
    """An unknown or ill-typed setting."""


class DataError(InstagError):
    """A video, audio, feature or subject file that cannot be used."""


class CheckpointError(InstagError):
    """A checkpoint or avatar that is missing, damaged or made for something else."""

"""Errors that a user can cause, each described in one line.

Every message says what is wrong, where, what was found, and how to fix it. `cli.main` prints the line without a
traceback; any other exception is a bug and keeps its traceback.
"""


class RelabelError(Exception):
    """A failure that the user can fix. The command ends with `exit_code` and one line."""

    exit_code = 1


class UsageError(RelabelError):
    """The command or its configuration is wrong; nothing was run."""

    exit_code = 2


class SourceError(RelabelError):
    """The dataset cannot be opened, or does not match the configuration."""


class ImageReadError(RelabelError):
    """One image cannot be decoded. It becomes an error row; the run continues."""


class BackboneError(RelabelError):
    """A model cannot be loaded or does not match the configuration."""


class StageError(RelabelError):
    """A stage cannot run with its inputs or in its folder."""


class DamagedFileError(StageError):
    """A file of a stage is missing, truncated or not as it was written."""


class OutputError(RelabelError):
    """A file cannot be written: the disk is full, or the folder does not allow it."""


class LabelerError(RelabelError):
    """A stored labeler is damaged or was made for another backbone or other classes."""


class ReleaseError(RelabelError):
    """A release folder is missing, damaged or has another schema version."""


class FormatError(RelabelError):
    """A file in another format is missing, damaged or invalid, or cannot be written."""


class HubError(RelabelError):
    """The Hub refused a request, or the release must not be published as it is."""

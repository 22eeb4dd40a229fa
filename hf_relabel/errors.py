"""Errors a user can cause, each told in one line.

Every message says what is wrong, where, what was found, and how to mend it. `cli.main` prints the line without a
traceback; any other exception is a bug of ours and keeps its traceback.
"""


class RelabelError(Exception):
    """A failure that the user can mend. The command ends with `exit_code` and one line."""

    exit_code = 1


class UsageError(RelabelError):
    """The command or its configuration is wrong; nothing was run."""

    exit_code = 2


class SourceError(RelabelError):
    """The dataset cannot be opened, or is not what the configuration says."""


class ImageReadError(RelabelError):
    """One image cannot be decoded. It becomes an error row, not the end of the run."""


class BackboneError(RelabelError):
    """A model cannot be loaded or does not fit the configuration."""


class StageError(RelabelError):
    """A stage's inputs or its work folder do not allow it to run."""


class LabelerError(RelabelError):
    """A stored labeler is damaged or was made for another backbone or other classes."""


class ReleaseError(RelabelError):
    """A release folder is missing, damaged or of another schema version."""


class FormatError(RelabelError):
    """A file of another format is missing, damaged or not what it should be, or cannot be written."""


class HubError(RelabelError):
    """The Hub refused, or what would be published is not fit to be."""

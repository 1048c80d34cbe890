"""One exception tree: what a user can put right is a ``MigSelectorError`` and prints as one message.

MigSelectorError
├── HostError          the LLaMA-Factory that is installed, or the way it is started
├── ArgumentError      a ``mig_*`` key, or a key of the host that selection needs
├── PoolError          dataset_info.json or a pool file
├── EmbeddingError     the encoder, or the vectors given in its place
├── RegistrationError  writing the subset or its entry
├── HandoverError      training would read other rows than the ones selected
└── RemoteError        another rank failed; carries its message
"""


class MigSelectorError(Exception):
    """Something that the user can put right; its text says where, what was found and what to do."""


class HostError(MigSelectorError):
    """The installed LLaMA-Factory, or the way it is started, leaves no place for a selection."""


class ArgumentError(MigSelectorError):
    """A key of the configuration is unknown, missing or has a value that is not allowed."""


class PoolError(MigSelectorError):
    """A pool cannot be found or read, or holds a row that cannot be used."""


class EmbeddingError(MigSelectorError):
    """The labels could not be turned into vectors."""


class RegistrationError(MigSelectorError):
    """The subset or its entry in dataset_info.json could not be written."""


class HandoverError(MigSelectorError):
    """The training run as configured would not train on the selected rows."""


class RemoteError(MigSelectorError):
    """Another rank failed; the text is that rank's message."""

"""The exceptions for errors that a user can fix; commands print them as one message without a traceback.

MigSelectorError
├── HostError          the installed LLaMA-Factory, or the way it is started
├── ArgumentError      a ``mig_*`` key, or a key of the host that selection needs
│   └── UsageError     an option of a command
├── PoolError          dataset_info.json or a pool file
├── EmbeddingError     the encoder, or vectors from a file
├── AnnotatorError     the server of the model that labels or scores rows
├── EvaluationError    a model to evaluate, the data of a benchmark, or a judge
│   └── ModelError     the model cannot be asked at all
├── RegistrationError  writing the subset or its entry
├── HandoverError      training would read other rows than those selected
└── RemoteError        another rank failed; carries its message
"""


class MigSelectorError(Exception):
    """An error that the user can fix; its message says where it is, what was expected and found, and what to do."""


class HostError(MigSelectorError):
    """The installed LLaMA-Factory, or the way it is started, does not support a selection."""


class ArgumentError(MigSelectorError):
    """A key of the configuration is unknown or missing, or its value is not allowed."""


class UsageError(ArgumentError):
    """The value of an option is not allowed; a command then exits with 2, as argparse does."""


class PoolError(MigSelectorError):
    """A pool cannot be found or read, or has a row that cannot be used."""


class EmbeddingError(MigSelectorError):
    """Labels or rows could not be turned into vectors, or given vectors cannot be used."""


class AnnotatorError(MigSelectorError):
    """The server of the model that labels or scores rows cannot be used."""


class EvaluationError(MigSelectorError):
    """A model cannot be evaluated, or a benchmark's data or its judge cannot be used."""


class ModelError(EvaluationError):
    """A model cannot be loaded, or its server does not answer: no benchmark can be asked."""


class RegistrationError(MigSelectorError):
    """The subset or its entry in dataset_info.json could not be written."""


class HandoverError(MigSelectorError):
    """The training run, as configured, would not train on the selected rows."""


class RemoteError(MigSelectorError):
    """Another rank failed; the message is that of the rank that failed first."""

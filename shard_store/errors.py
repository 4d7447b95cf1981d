"""Every error that a user can cause or meet, in one tree.

    StiError
    ├── FormatError        a store, plan or template that breaks its specification
    │   └── ChecksumError  bytes on flash that differ from what was written
    ├── CheckpointError    a model directory that cannot be packaged
    ├── DataError          a file of labelled texts that cannot be used
    ├── TrainingError      a training that cannot start, continue or go on
    ├── PlanError          a plan that this store or device cannot run
    │   └── BudgetError    a memory budget too small for the plan
    ├── RequestError       a request that is malformed or too long
    ├── CostsError         device costs that are malformed or of another device
    ├── ExecutorError      the TFLite runtime is missing or refused a call
    └── DeviceError        a device that cannot be reached or written
        └── ConnectionLost it could be reached, but no longer can: worth another try

The message of each is one line: what is wrong, which value, what to do.
"""


class StiError(Exception):
    """Base of all errors that are reported to the user as one line."""


class FormatError(StiError):
    """A file breaks the specification in docs/format.md."""


class ChecksumError(FormatError):
    """Bytes read differ from the bytes written."""


class CheckpointError(StiError):
    """A checkpoint is missing, incomplete or of an unknown family."""


class DataError(StiError):
    """A file of labelled texts is unreadable, malformed or does not fit the model."""


class TrainingError(StiError):
    """A training has unusable options, differs from the one to continue, or diverges."""


class PlanError(StiError):
    """A plan asks for layers, slices or bitwidths that the store does not have."""


class BudgetError(PlanError):
    """A memory budget cannot hold what the plan needs."""


class RequestError(StiError):
    """A request is malformed, empty or over-long."""


class CostsError(StiError):
    """Device costs are malformed, or do not cover what is asked."""


class ExecutorError(StiError):
    """The TFLite runtime is missing or refused a call."""


class DeviceError(StiError):
    """A device cannot be reached, read or written."""


class ConnectionLost(DeviceError):  # noqa: N818 - it reads as what happened
    """The connection to a device broke: what was under way may be tried again."""

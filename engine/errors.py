"""Every error that a user's input can cause, one sentence each.

A message says what is wrong, where, the two values that disagree, and what to do about it. The command line prints it
as it stands on stderr and exits with status 2; Python callers catch `WeighbridgeError`.
"""

__all__ = [
    "CheckpointNotFoundError",
    "ClusterError",
    "DeviceError",
    "DeviceMemoryError",
    "DtypeError",
    "FormatError",
    "HubError",
    "KernelError",
    "NothingMatchedError",
    "OptionError",
    "OutputError",
    "ReadError",
    "RulesError",
    "WeighbridgeError",
]


class WeighbridgeError(Exception):
    """The base of every error raised on bad input."""


class CheckpointNotFoundError(WeighbridgeError):
    """No file, folder or cached hub id of that name."""


class FormatError(WeighbridgeError):
    """A file or folder that is there but is not a checkpoint that can be read."""


class HubError(WeighbridgeError):
    """A hub id that could not be resolved: not in the cache and not to be downloaded."""


class ReadError(WeighbridgeError):
    """A checkpoint whose bytes could not be read, or that changed while they were being read."""


class DtypeError(WeighbridgeError):
    """A dtype whose values cannot be decoded exactly."""


class KernelError(WeighbridgeError):
    """Kernels that cannot be compiled on this machine."""


class DeviceError(WeighbridgeError):
    """A device that is not there, cannot compute what is asked, or has too little memory."""


class DeviceMemoryError(DeviceError):
    """A device that has too little memory for a tensor in all operands that are to be compared."""


class RulesError(WeighbridgeError):
    """A renaming rule that is unknown, malformed, or maps two tensors to one name."""


class NothingMatchedError(WeighbridgeError):
    """Two checkpoints of which no tensor could be paired."""


class OptionError(WeighbridgeError):
    """An option or argument with a value that has no meaning."""


class OutputError(WeighbridgeError):
    """A result that could not be written."""


class ClusterError(WeighbridgeError):
    """A Ray cluster that cannot be reached, cannot run the tasks, or was lost."""

"""What a notebook calls: functions that take and give molecules, tables and flows.

Each makes the settings of a command and calls the task behind it, so that a seed gives the
molecules that the command writes. `from molflowctl import generate` and so on.
"""

"""The commands: one file each, and what they share. `command.py` defines what a command is and lists them all."""

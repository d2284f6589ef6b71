"""Find industrial defects without ever being shown one."""

__version__ = "0.4.0"

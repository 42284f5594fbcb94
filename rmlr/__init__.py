"""RmLR: re-mine, learn and reason (Cao et al., ICCV 2023), reproduced."""

__version__ = "0.1.0"

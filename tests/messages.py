"""What a command says: shared by the tests of bad input."""

import re

import numpy as np

from eqprop import cli

# What no user should read: Python's, JAX's and the parser's own words.
INTERNALS = ("Traceback", "<class", "PyTreeDef", "ShapeDtypeStruct", "Errno", "base 10")


def command(capsys, *arguments):
    """Status, standard output, and the message on standard error in one line."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # the parser's way to refuse options
        status = stop.code
    captured = capsys.readouterr()
    # The parser draws a frame around its messages and breaks their lines.
    return status, captured.out, " ".join(re.sub("[╭╮╰╯│─]", " ", captured.err).split())


def refused(capsys, *arguments, status=2):
    """The message of a command that must fail and print no result."""
    found, out, message = command(capsys, *arguments)
    assert found == status, message
    assert out == ""
    assert message
    for word in INTERNALS:
        assert word not in message
    return message


def assert_holds(message, *fragments):
    for fragment in fragments:
        assert fragment in message, message


def with_nan(x):
    x = x.copy()
    x[3, 1] = np.nan
    return x

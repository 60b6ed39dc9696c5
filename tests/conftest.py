"""What holds for every test: strict mode, one thread, and the same random numbers at the start."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import threading

import pytest
from hypothesis import settings

os.environ["TRIMTAB"] = "strict"  # before anything imports trimtab: a fault of ours raises
os.environ["TRIMTAB_DASHBOARD"] = "off"  # thousands of short runs leave no page of five megabytes each
os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch: one thread here and in every subprocess

settings.register_profile("same every time", deadline=None, derandomize=True)
settings.load_profile("same every time")


def pytest_runtest_setup() -> None:
    """Start each test from the same random numbers, whatever ran before it in this process, and with Ctrl-C heard.

    A shell that starts the tests in the background has it ignored, there and in every process the tests start.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed(0)
    if "torch" in sys.modules:  # a test that needs no torch does not wait for it
        sys.modules["torch"].manual_seed(0)


def require(*names: str) -> None:
    """Skip the tests of a module where a package is missing; where everything has to be tested, fail.

    Raises:
        ModuleNotFoundError: if one is missing and the environment variable `CI` is `true`.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            if os.environ.get("CI") == "true":
                raise ModuleNotFoundError(f"{name} is not installed, and CI=true asks for all tests")
            pytest.skip(f"{name} is not installed", allow_module_level=True)

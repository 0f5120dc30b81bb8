"""What ``mmsalmask <command>`` and ``tools/<name>.py`` run: a module per command.

Each has a typed function of its own name that does the work, and ``main``, which turns words of the
command line into its arguments and its errors into sentences. ``mmsalmask.__main__`` lists them.
"""

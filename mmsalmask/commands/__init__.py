"""What the command line tools run: a module per command, with typed functions and `main`."""

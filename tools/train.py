"""``mmsalmask train``, run from a checkout."""

from mmsalmask.commands.train import main

if __name__ == "__main__":
    main()

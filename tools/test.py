"""``mmsalmask test``, run from a checkout."""

from mmsalmask.commands.test import main

if __name__ == "__main__":
    main()

"""``mmsalmask report``, run from a checkout."""

from mmsalmask.commands.report import main

if __name__ == "__main__":
    main()

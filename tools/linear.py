"""``mmsalmask linear``, run from a checkout."""

from mmsalmask.commands.linear import main

if __name__ == "__main__":
    main()

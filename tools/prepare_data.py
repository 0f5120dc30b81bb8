"""``mmsalmask data``, run from a checkout."""

from mmsalmask.commands.prepare_data import main

if __name__ == "__main__":
    main()

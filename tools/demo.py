"""``mmsalmask demo``, run from a checkout."""

from mmsalmask.commands.demo import main

if __name__ == "__main__":
    main()

"""``mmsalmask ablate``, run from a checkout."""

from mmsalmask.commands.ablate import main

if __name__ == "__main__":
    main()

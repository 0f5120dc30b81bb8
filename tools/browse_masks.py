"""``mmsalmask masks``, run from a checkout."""

from mmsalmask.commands.browse_masks import main

if __name__ == "__main__":
    main()

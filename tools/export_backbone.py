"""``mmsalmask export``, run from a checkout."""

from mmsalmask.commands.export_backbone import main

if __name__ == "__main__":
    main()

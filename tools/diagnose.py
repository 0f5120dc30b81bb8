"""`mmsalmask diagnose`, for those who work in a checkout."""

from mmsalmask.commands.diagnose import main

if __name__ == "__main__":
    main()

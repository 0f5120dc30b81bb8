"""`mmsalmask doctor`, for those who work in a checkout."""

from mmsalmask.commands.doctor import main

if __name__ == "__main__":
    main()

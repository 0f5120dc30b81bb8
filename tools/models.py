"""`mmsalmask models`, for those who work in a checkout."""

from mmsalmask.commands.models import main

if __name__ == "__main__":
    main()

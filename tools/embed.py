"""`mmsalmask embed`, for those who work in a checkout."""

from mmsalmask.commands.embed import main

if __name__ == "__main__":
    main()

"""``mmsalmask knn``, run from a checkout."""

from mmsalmask.commands.knn import main

if __name__ == "__main__":
    main()

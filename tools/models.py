"""``mmsalmask models``, run from a checkout."""

from mmsalmask.commands.models import main

if __name__ == "__main__":
    main()

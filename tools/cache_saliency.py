"""``mmsalmask cache``, run from a checkout."""

from mmsalmask.commands.cache_saliency import main

if __name__ == "__main__":
    main()

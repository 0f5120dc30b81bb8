"""Take a pretrained backbone through every downstream task that the data on disk allows."""

from mmsalmask.commands.transfer import main

if __name__ == "__main__":
    main()

"""Test a depth checkpoint, draw disparity maps beside images, and put its row into Table 3."""

from mmsalmask.commands.depth_report import main

if __name__ == "__main__":
    main()

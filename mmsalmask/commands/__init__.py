"""What the commands of ``mmsalmask`` run."""
